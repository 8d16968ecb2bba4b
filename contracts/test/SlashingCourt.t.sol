// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../src/Governed.sol";
import {IOperatorSource} from "../src/interfaces/IOperatorSource.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {CourtNetwork} from "./CourtNetwork.sol";

/// @notice What the court has beside its interface. Importing the contract would compile it another way than deployed.
interface ICourtConstants {
    function ANSWER_SECONDS() external view returns (uint64);
    function MAX_PROOF_SIZE() external view returns (uint256);
    function MAX_VETOES() external view returns (uint256);
    function VETO_PERIOD() external view returns (uint64);
}

/// @notice The court's settings, digests and grades.
contract SlashingCourtTest is CourtNetwork {
    // --- settings ----------------------------------------------------------------------------------------------------

    function test_constructor_KeepsItsSettings() public view {
        assertEq(address(court.center()), address(center), "center");
        assertEq(address(court.operators()), address(registry), "operators");
        assertEq(address(court.verifier()), address(tables), "verifier");
        assertEq(court.vault(), vault, "vault");
        assertEq(court.guardian(), owner, "guardian");
        assertEq(court.vetoDelay(), VETO_DELAY, "veto delay");
        assertEq(court.longestDispute(), LONGEST_DISPUTE, "longest dispute");
        assertEq(Governed(address(court)).owner(), owner, "owner");
        assertEq(Governed(address(court)).changeDelay(), CHANGE_DELAY, "change delay");
        assertEq(court.totalOwed(), 0, "owes nothing");
    }

    function test_constructor_RefusesWhatIsOutOfBounds() public {
        expectRefused(address(0), VETO_DELAY, LONGEST_DISPUTE, "vault", 0);
        expectRefused(vault, VETO_DELAY, 0, "longestDispute", 0);
        expectRefused(vault, VETO_DELAY, UNBONDING_SECONDS + 1, "longestDispute", UNBONDING_SECONDS + 1);
        expectRefused(vault, 0, LONGEST_DISPUTE, "vetoDelay", 0);
        expectRefused(vault, LONGEST_DISPUTE + 1, LONGEST_DISPUTE, "vetoDelay", LONGEST_DISPUTE + 1);
        vm.mockCall(
            address(registry), abi.encodeCall(IOperatorSource.unbondingSeconds, ()), abi.encode(uint64(1000 days))
        );
        expectRefused(vault, VETO_DELAY, 365 days + 1, "longestDispute", 365 days + 1);
        makeCourt(vault, 365 days, 365 days);
    }

    function test_constructor_TakesTheBoundsThemselves() public {
        makeCourt(vault, 1, 1);
        makeCourt(vault, UNBONDING_SECONDS, UNBONDING_SECONDS);
    }

    function expectRefused(address vault_, uint64 vetoDelay, uint64 longestDispute, string memory name, uint256 value)
        private
    {
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.InvalidSetting.selector, name, value));
        this.makeCourt(vault_, vetoDelay, longestDispute);
    }

    function makeCourt(address vault_, uint64 vetoDelay, uint64 longestDispute) public returns (ISlashingCourt) {
        bytes memory arguments = abi.encode(center, vault_, vetoDelay, longestDispute, owner, CHANGE_DELAY);
        return ISlashingCourt(deploy("SlashingCourt.sol:SlashingCourt", arguments));
    }

    function test_gradeOf_IsThatOfTheSpecification() public view {
        assertEq(court.gradeOf(ISlashingCourt.Offence.OUTLIER), 0.01e18, "outlier");
        assertEq(court.gradeOf(ISlashingCourt.Offence.REJECTED_TASK), 0.1e18, "rejected task");
        assertEq(court.gradeOf(ISlashingCourt.Offence.MISSED_DEADLINE), 0.1e18, "missed deadline");
        assertEq(court.gradeOf(ISlashingCourt.Offence.EQUIVOCATION), 1e18, "equivocation");
        assertEq(court.gradeOf(ISlashingCourt.Offence.TAMPERING), 1e18, "tampering");
    }

    function test_receive_TakesCoinFromTheOperatorsAlone() public {
        vm.deal(address(this), 1 ether);
        (bool isTaken, bytes memory answer) = address(court).call{value: 1}("");
        assertTrue(!isTaken, "refused");
        assertEq(answer, abi.encodeWithSelector(ISlashingCourt.OnlyOperators.selector, address(this)), "error");
        vm.deal(address(registry), 1 ether);
        vm.prank(address(registry));
        (isTaken,) = address(court).call{value: 1}("");
        assertTrue(isTaken, "from the operators");
    }

    function test_digests_AreOfTheCourtsOwnDomain() public {
        ISlashingCourt other = makeCourt(vault, VETO_DELAY, LONGEST_DISPUTE);
        assertTrue(court.cancelDigest("id") != other.cancelDigest("id"), "another court, another digest");
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("ProofOfInference"),
                keccak256("1"),
                block.chainid,
                court
            )
        );
        assertEq(court.domainSeparator(), domain, "domain");
        bytes32 cancelling = keccak256(abi.encode(keccak256("CancelSlash(bytes32 slashId)"), bytes32("id")));
        assertEq(court.cancelDigest("id"), keccak256(abi.encodePacked(hex"1901", domain, cancelling)), "cancel");
        bytes32 overruling = keccak256(abi.encode(keccak256("OverruleVeto(bytes32 slashId)"), bytes32("id")));
        assertEq(court.overruleDigest("id"), keccak256(abi.encodePacked(hex"1901", domain, overruling)), "overrule");
    }

    function testFuzz_slashIdOf_TellsOffenceTaskAndOperatorApart(bytes32 taskId, address operator, bytes32 otherTask)
        public
        view
    {
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.OUTLIER, taskId, operator);
        assertEq(slashId, keccak256(abi.encode(uint8(0), taskId, operator)), "id");
        assertTrue(slashId != court.slashIdOf(ISlashingCourt.Offence.TAMPERING, taskId, operator), "offence");
        assertTrue(
            slashId != court.slashIdOf(ISlashingCourt.Offence.OUTLIER, taskId, address(uint160(operator) ^ 1)),
            "operator"
        );
        if (otherTask != taskId) {
            assertTrue(slashId != court.slashIdOf(ISlashingCourt.Offence.OUTLIER, otherTask, operator), "task");
        }
    }

    // --- the guardian's office ---------------------------------------------------------------------------------------

    function test_guardian_ChangesAfterTheDelay() public {
        Governed governed = Governed(address(court));
        vm.prank(owner);
        governed.announceChange("guardian", 0, uint160(requester));
        assertEq(court.guardian(), owner, "not yet");
        vm.warp(block.timestamp + CHANGE_DELAY);
        governed.makeChange("guardian", 0);
        assertEq(court.guardian(), requester, "now");
    }

    function test_guardian_IsOneAddressAndTheOnlySetting() public {
        Governed governed = Governed(address(court));
        uint256 tooLarge = uint256(type(uint160).max) + 1;
        vm.startPrank(owner);
        vm.expectRevert(abi.encodeWithSelector(Governed.ChangeOutOfBounds.selector, bytes32("guardian"), 0, tooLarge));
        governed.announceChange("guardian", 0, tooLarge);
        vm.expectRevert(abi.encodeWithSelector(Governed.ChangeOutOfBounds.selector, bytes32("guardian"), 1, 7));
        governed.announceChange("guardian", 1, 7);
        vm.expectRevert(abi.encodeWithSelector(Governed.UnknownChange.selector, bytes32("vault")));
        governed.announceChange("vault", 0, 7);
        vm.stopPrank();
    }

    function test_constants_AreThoseOfTheSpecification() public view {
        ICourtConstants whole = ICourtConstants(address(court));
        assertEq(whole.ANSWER_SECONDS(), 1 hours, "answer");
        assertEq(whole.MAX_PROOF_SIZE(), 262_144, "proof");
        assertEq(whole.MAX_VETOES(), 3, "vetoes");
        assertEq(whole.VETO_PERIOD(), 30 days, "period");
    }
}
