// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {FakeCourt} from "./FakeCourt.sol";
import {Network} from "./Network.sol";

/// @notice How a center is set up, and what it has signed. Branches: tree/setCourt.tree.
contract CenterSetupTest is Network {
    address private immutable anyone = address(uint160(uint256(keccak256("anyone"))));

    // --- digests -----------------------------------------------------------------------------------------------------

    function _domain() private view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("ProofOfInference"),
                keccak256("1"),
                block.chainid,
                address(center)
            )
        );
    }

    function _typed(bytes32 structHash) private view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", _domain(), structHash));
    }

    function test_digests_AreTheDomainsOwn() public view {
        assertEq(center.domainSeparator(), _domain(), "domain");
        assertEq(center.voteDigest("info", 2), _typed(Digests.hashVote("info", 2)), "vote");
        assertEq(center.promiseDigest("task"), _typed(Digests.hashPromise("task")), "promise");
        bytes32 batch = Digests.hashBatch("root", "document", 3, 4, address(5));
        assertEq(center.batchDigest("root", "document", 3, 4, address(5)), _typed(batch), "batch");
        bytes32 voters = keccak256(hex"000000070000000900010203");
        assertEq(center.votersHashOf(7, 9, hex"00010203"), voters, "voters");
    }

    function test_digests_AreStructHashesOfRequestAndInfo() public view {
        IAttestationCenter.TaskRequest memory request = makeRequest(20, 8, 9, 5);
        bytes32 structHash = keccak256(
            bytes.concat(
                abi.encode(
                    Digests.TASK_REQUEST_TYPEHASH,
                    request.requester,
                    request.nonce,
                    request.performer,
                    request.taskDefinitionId,
                    request.modelHash
                ),
                keccak256(bytes(request.inputCid)),
                keccak256(bytes(request.parameters)),
                abi.encode(request.seed, request.fee, request.deadline)
            )
        );
        assertEq(center.taskRequestHash(request), _typed(structHash), "request");
        IAttestationCenter.TaskInfo memory info = makeInfo("task", 9, 7);
        structHash = keccak256(
            bytes.concat(
                abi.encode(Digests.TASK_INFO_TYPEHASH, info.taskId, keccak256(bytes(info.proofOfTask))),
                abi.encode(keccak256(info.data), info.taskPerformer, info.taskDefinitionId, info.epoch)
            )
        );
        assertEq(center.taskInfoHash(info), _typed(structHash), "info");
    }

    // --- deploying ---------------------------------------------------------------------------------------------------

    function _deployCenter(address verifier, address operators) private returns (IAttestationCenter) {
        bytes memory arguments = abi.encode(verifier, operators, address(this), CHANGE_DELAY);
        return IAttestationCenter(deploy("AttestationCenter.sol:AttestationCenter", arguments));
    }

    function deployExternally(address verifier, address operators) external {
        _deployCenter(verifier, operators);
    }

    function test_constructor_WantsItsNeighbours() public {
        bytes4 selector = IAttestationCenter.InvalidSetting.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, "verifier", uint160(anyone)));
        this.deployExternally(anyone, address(registry));
        vm.expectRevert(abi.encodeWithSelector(selector, "operators", uint160(anyone)));
        this.deployExternally(address(tables), anyone);
        IAttestationCenter other = _deployCenter(address(tables), address(registry));
        assertEq(address(other.verifier()), address(tables), "verifier");
        assertEq(address(other.operators()), address(registry), "operators");
        assertEq(other.court(), address(0), "no court yet");
    }

    function _expectInvalidCourt(IAttestationCenter center_, address candidate) private {
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.InvalidCourt.selector, candidate));
        center_.setCourt(candidate);
    }

    function test_setCourt_TakesOneThatFits() public {
        IAttestationCenter other = _deployCenter(address(tables), address(registry));
        _expectInvalidCourt(other, anyone);
        _expectInvalidCourt(other, address(court)); // of another center
        _expectInvalidCourt(other, address(new FakeCourt(other, UNBONDING_SECONDS + 1)));

        address fitting = address(new FakeCourt(other, UNBONDING_SECONDS));
        vm.expectEmit(address(other));
        emit IAttestationCenter.CourtSet(fitting);
        other.setCourt(fitting);
        assertEq(other.court(), fitting, "set");
    }

    function test_setCourt_IsTheDeployersOnce() public {
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.CourtAlreadySet.selector, address(court)));
        center.setCourt(address(court));
        IAttestationCenter other = _deployCenter(address(tables), address(registry));
        address fitting = address(new FakeCourt(other, 1));
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.OnlyDeployer.selector, anyone));
        vm.prank(anyone);
        other.setCourt(fitting);
    }
}
