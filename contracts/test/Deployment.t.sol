// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable2Step.sol";

import {Governed} from "../src/Governed.sol";
import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {IOperatorSource} from "../src/interfaces/IOperatorSource.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {FakeCourt} from "./FakeCourt.sol";
import {Network} from "./Network.sol";
import {TestCourt} from "./RegistryNetwork.sol";

/// @notice What the five contracts refuse to be deployed and wired with, and on which chain. Branches:
/// tree/deployment.tree.
contract DeploymentTest is Network {
    string private constant TABLES = "EpochTables.sol:EpochTables";
    string private constant REGISTRY = "OperatorRegistry.sol:OperatorRegistry";
    string private constant CENTER = "AttestationCenter.sol:AttestationCenter";
    string private constant ESCROW = "TaskEscrow.sol:TaskEscrow";
    string private constant COURT = "SlashingCourt.sol:SlashingCourt";

    uint256 private constant MAX_STAKE = type(uint96).max;
    uint256 private constant MAX_CODE = 24_576; // EIP-170
    uint256 private constant MAX_CREATION = 49_152; // EIP-3860
    address private constant NO_CODE = address(0xbeef);

    /// @dev In a call of its own, so that a constructor's revert is one that can be expected.
    function make(string memory artifact, bytes memory arguments) external returns (address) {
        return deploy(artifact, arguments);
    }

    function _refuse(string memory artifact, bytes memory arguments, bytes memory refusal) private {
        vm.expectRevert(refusal);
        this.make(artifact, arguments);
    }

    /// @dev All five call it InvalidSetting(string,uint256).
    function _refuseSetting(string memory artifact, bytes memory arguments, string memory name, uint256 value) private {
        _refuse(artifact, arguments, abi.encodeWithSelector(IOperatorRegistry.InvalidSetting.selector, name, value));
    }

    // --- constructors ------------------------------------------------------------------------------------------------

    function test_constructors_ShareOneErrorForASetting() public pure {
        bytes4 selector = IOperatorRegistry.InvalidSetting.selector;
        assertTrue(IEpochTables.InvalidSetting.selector == selector, "tables");
        assertTrue(IAttestationCenter.InvalidSetting.selector == selector, "center");
        assertTrue(ITaskEscrow.InvalidSetting.selector == selector, "escrow");
        assertTrue(ISlashingCourt.InvalidSetting.selector == selector, "court");
    }

    function test_constructor_OfTheTablesBoundsItsSettings() public {
        _refuseSetting(TABLES, abi.encode(0, 1), "epochSeconds", 0);
        _refuseSetting(TABLES, abi.encode(30 days + 1, 1), "epochSeconds", 30 days + 1);
        _refuseSetting(TABLES, abi.encode(1, 0), "graceSeconds", 0);
        _refuseSetting(TABLES, abi.encode(1, 30 days + 1), "graceSeconds", 30 days + 1);
        IEpochTables made = IEpochTables(this.make(TABLES, abi.encode(1, 30 days)));
        assertEq(made.epochSeconds(), 1, "epoch seconds");
        assertEq(made.graceSeconds(), 30 days, "grace seconds");
        made = IEpochTables(this.make(TABLES, abi.encode(30 days, 1)));
        assertEq(made.epochSeconds(), 30 days, "epoch seconds");
        assertEq(made.graceSeconds(), 1, "grace seconds");
    }

    function _registryArguments(uint256 minimum, uint256 unit, uint256 unbonding) private view returns (bytes memory) {
        return abi.encode(tables, address(0), minimum, unit, unbonding, owner, 1);
    }

    function test_constructor_OfTheRegistryBoundsItsSettings() public {
        _refuseSetting(REGISTRY, abi.encode(NO_CODE, address(0), 1, 1, 1, owner, 1), "tables", uint160(NO_CODE));
        _refuseSetting(REGISTRY, abi.encode(tables, NO_CODE, 1, 1, 1, owner, 1), "stakeToken", uint160(NO_CODE));
        _refuseSetting(REGISTRY, _registryArguments(1, 0, 1), "powerUnit", 0);
        _refuseSetting(REGISTRY, _registryArguments(MAX_STAKE, MAX_STAKE + 1, 1), "powerUnit", MAX_STAKE + 1);
        _refuseSetting(REGISTRY, _registryArguments(9, 10, 1), "minimumStake", 9);
        _refuseSetting(REGISTRY, _registryArguments(MAX_STAKE + 1, 10, 1), "minimumStake", MAX_STAKE + 1);
        _refuseSetting(REGISTRY, _registryArguments(10, 10, 0), "unbondingSeconds", 0);
        _refuseSetting(REGISTRY, _registryArguments(10, 10, 365 days + 1), "unbondingSeconds", 365 days + 1);
        this.make(REGISTRY, _registryArguments(1, 1, 1));
        this.make(REGISTRY, _registryArguments(MAX_STAKE, MAX_STAKE, 365 days));
    }

    function test_constructor_OfTheCenterWantsItsNeighbours() public {
        _refuseSetting(CENTER, abi.encode(NO_CODE, registry, owner, 1), "verifier", uint160(NO_CODE));
        _refuseSetting(CENTER, abi.encode(tables, NO_CODE, owner, 1), "operators", uint160(NO_CODE));
        this.make(CENTER, abi.encode(tables, registry, owner, 1));
    }

    function test_constructor_OfTheEscrowBoundsItsSettings() public {
        _refuseSetting(ESCROW, abi.encode(NO_CODE, address(0), 1, owner, 1), "center", uint160(NO_CODE));
        _refuseSetting(ESCROW, abi.encode(center, NO_CODE, 1, owner, 1), "token", uint160(NO_CODE));
        _refuseSetting(ESCROW, abi.encode(center, address(0), 0, owner, 1), "refundDelay", 0);
        _refuseSetting(ESCROW, abi.encode(center, address(0), 30 days + 1, owner, 1), "refundDelay", 30 days + 1);
        this.make(ESCROW, abi.encode(center, address(0), 1, owner, 1));
        this.make(ESCROW, abi.encode(center, address(0), 30 days, owner, 1));
    }

    function _courtArguments(address vault_, uint256 vetoDelay, uint256 dispute) private view returns (bytes memory) {
        return abi.encode(center, vault_, vetoDelay, dispute, owner, 1);
    }

    function test_constructor_OfTheCourtBoundsItsSettings() public {
        uint256 most = UNBONDING_SECONDS;
        _refuseSetting(COURT, _courtArguments(address(0), 1, 1), "vault", 0);
        _refuseSetting(COURT, _courtArguments(vault, 1, 0), "longestDispute", 0);
        _refuseSetting(COURT, _courtArguments(vault, 1, most + 1), "longestDispute", most + 1);
        _refuseSetting(COURT, _courtArguments(vault, 0, most), "vetoDelay", 0);
        _refuseSetting(COURT, _courtArguments(vault, most + 1, most), "vetoDelay", most + 1);
        this.make(COURT, _courtArguments(vault, 1, 1));
        this.make(COURT, _courtArguments(vault, most, most));
        // However long the exit takes.
        bytes memory question = abi.encodeCall(IOperatorSource.unbondingSeconds, ());
        vm.mockCall(address(registry), question, abi.encode(1000 days));
        _refuseSetting(COURT, _courtArguments(vault, 1, 365 days + 1), "longestDispute", 365 days + 1);
        this.make(COURT, _courtArguments(vault, 365 days, 365 days));
        vm.clearMockedCalls();
    }

    /// @dev What has no code has no operators, either: there is no answer to read.
    function test_constructor_OfTheCourtWantsACenter() public {
        _refuse(COURT, abi.encode(NO_CODE, vault, 1, 1, owner, 1), "");
    }

    function _governed(string memory artifact, address owner_, uint256 delay) private view returns (bytes memory) {
        bytes32 name = keccak256(bytes(artifact));
        if (name == keccak256(bytes(REGISTRY))) return abi.encode(tables, address(0), 1, 1, 1, owner_, delay);
        if (name == keccak256(bytes(CENTER))) return abi.encode(tables, registry, owner_, delay);
        if (name == keccak256(bytes(ESCROW))) return abi.encode(center, address(0), 1, owner_, delay);
        return abi.encode(center, vault, 1, 1, owner_, delay);
    }

    function test_constructors_BoundTheDelayOfChangesAndWantAnOwner() public {
        string[4] memory artifacts = [REGISTRY, CENTER, ESCROW, COURT];
        for (uint256 i = 0; i < artifacts.length; ++i) {
            bytes4 selector = Governed.DelayOutOfBounds.selector;
            _refuse(artifacts[i], _governed(artifacts[i], owner, 0), abi.encodeWithSelector(selector, 0));
            bytes memory tooLong = abi.encodeWithSelector(selector, 30 days + 1);
            _refuse(artifacts[i], _governed(artifacts[i], owner, 30 days + 1), tooLong);
            bytes memory nobody = abi.encodeWithSelector(Ownable.OwnableInvalidOwner.selector, address(0));
            _refuse(artifacts[i], _governed(artifacts[i], address(0), 1), nobody);
            Governed made = Governed(this.make(artifacts[i], _governed(artifacts[i], owner, 30 days)));
            assertEq(made.changeDelay(), 30 days, "delay");
            assertEq(made.owner(), owner, "owner");
            assertEq(made.pauser(), owner, "pauser");
            assertEq(made.pausedUntil(), 0, "not paused");
        }
    }

    // --- the chain ---------------------------------------------------------------------------------------------------

    /// @dev Where there is no precompile a call succeeds and answers nothing.
    function test_constructor_OfTheTablesRefusesAChainWithoutEip2537() public {
        for (uint160 precompile = 0x0b; precompile <= 0x10; ++precompile) {
            if (precompile == 0x0c || precompile == 0x0e) continue; // multiplication is not used
            vm.mockCall(address(precompile), "", "");
            vm.expectPartialRevert(BLS12381.PrecompileMissing.selector);
            this.make(TABLES, abi.encode(1, 1));
            vm.clearMockedCalls();
        }
        this.make(TABLES, abi.encode(1, 1));
    }

    function test_constructor_OfTheTablesRefusesAPairingThatIsAlwaysTrueOrAlwaysFalse() public {
        for (uint256 answer = 0; answer < 2; ++answer) {
            vm.mockCall(address(0x0f), "", abi.encode(answer));
            bytes memory missing = abi.encodeWithSelector(BLS12381.PrecompileMissing.selector, address(0x0f));
            _refuse(TABLES, abi.encode(1, 1), missing);
            vm.clearMockedCalls();
        }
    }

    /// @dev An addition that answers anything but the sum would let a forged aggregate through.
    function test_constructor_OfTheTablesRefusesAnAdditionThatDoesNotAdd() public {
        bytes memory wrong = new bytes(256);
        wrong[255] = 0x01;
        vm.mockCall(address(0x0d), "", wrong);
        bytes memory missing = abi.encodeWithSelector(BLS12381.PrecompileMissing.selector, address(0x0d));
        _refuse(TABLES, abi.encode(1, 1), missing);
        vm.clearMockedCalls();
    }

    /// @dev What `forge build` makes of src, which is what the exported artifacts hold.
    function test_code_FitsEveryChain() public view {
        address[5] memory deployed =
            [address(tables), address(registry), address(center), address(escrow), address(court)];
        string[5] memory artifacts = [TABLES, REGISTRY, CENTER, ESCROW, COURT];
        for (uint256 i = 0; i < deployed.length; ++i) {
            assertTrue(deployed[i].code.length > 1000, "deployed");
            assertTrue(deployed[i].code.length <= MAX_CODE, string.concat("EIP-170: ", artifacts[i]));
            // The largest constructor takes seven words.
            assertTrue(
                vm.getCode(artifacts[i]).length + 7 * 32 <= MAX_CREATION, string.concat("EIP-3860: ", artifacts[i])
            );
        }
    }

    // --- wiring ------------------------------------------------------------------------------------------------------

    function _expectCaller(bytes4 selector, address caller) private {
        vm.prank(caller);
        vm.expectRevert(abi.encodeWithSelector(selector, caller));
    }

    function test_setSource_IsTheDeployersOnce() public {
        IEpochTables made = IEpochTables(deploy(TABLES, abi.encode(1, 1)));
        _expectCaller(IEpochTables.OnlyDeployer.selector, owner);
        made.setSource(address(registry));
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.InvalidSetting.selector, "source", 0));
        made.setSource(address(0));
        assertEq(made.source(), address(0), "none yet");
        _expectCaller(IEpochTables.OnlySource.selector, address(this)); // not even the deployer is one
        made.unseat(owner);

        vm.expectEmit(address(made));
        emit IEpochTables.SourceSet(address(registry));
        made.setSource(address(registry));
        assertEq(made.source(), address(registry), "source");
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.SourceAlreadySet.selector, address(registry)));
        made.setSource(owner);
    }

    function test_setCourt_OfTheRegistryTakesOneThatFitsOnce() public {
        IOperatorRegistry made = IOperatorRegistry(deploy(REGISTRY, _registryArguments(1, 1, 100)));
        address[5] memory unfit = [
            address(0),
            NO_CODE,
            address(court), // another registry's
            address(new TestCourt(registry, 1)),
            address(new TestCourt(made, 101)) // slower than the exit
        ];
        for (uint256 i = 0; i < unfit.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InvalidCourt.selector, unfit[i]));
            made.setCourt(unfit[i]);
        }
        IOperatorRegistry.Registration memory early = registration(1, PERFORMER, 0);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.CourtNotSet.selector));
        made.register(early);

        address fit = address(new TestCourt(made, 100));
        _expectCaller(IOperatorRegistry.OnlyDeployer.selector, owner);
        made.setCourt(fit);
        vm.expectEmit(address(made));
        emit IOperatorRegistry.CourtSet(fit);
        made.setCourt(fit);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.CourtAlreadySet.selector, fit));
        made.setCourt(fit);
    }

    function test_setCourt_OfTheCenterTakesOneThatFitsOnce() public {
        IAttestationCenter made = IAttestationCenter(deploy(CENTER, abi.encode(tables, registry, owner, 1)));
        address[4] memory unfit =
            [address(0), NO_CODE, address(court), address(new FakeCourt(made, UNBONDING_SECONDS + 1))];
        for (uint256 i = 0; i < unfit.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.InvalidCourt.selector, unfit[i]));
            made.setCourt(unfit[i]);
        }
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.CourtNotSet.selector));
        made.createTaskDefinition("", "", 0, "", terms());

        address fit = address(new FakeCourt(made, UNBONDING_SECONDS));
        _expectCaller(IAttestationCenter.OnlyDeployer.selector, owner);
        made.setCourt(fit);
        vm.expectEmit(address(made));
        emit IAttestationCenter.CourtSet(fit);
        made.setCourt(fit);
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.CourtAlreadySet.selector, fit));
        made.setCourt(fit);
    }
}
