// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {Network} from "./Network.sol";

/// @notice Ceilings on what settlement costs, with every account and slot cold as in a transaction of its own. Execution
/// alone: a transaction adds 21,000 and its calldata, about 7,000 for a task.
contract GasTest is Network {
    uint256 private constant SIZE = 10;
    uint256 private constant ALL = (1 << SIZE) - 1;
    uint256 private constant PERFORMER_ID = 99;

    function setUp() public override {
        super.setUp();
        join(PERFORMER_ID, PERFORMER, MINIMUM_STAKE);
        for (uint256 id = 1; id <= SIZE; ++id) {
            join(id, ATTESTER, MINIMUM_STAKE);
        }
        roll();
    }

    /// @dev The registry made its pages one after the other, and a nonce below 128 is one byte of RLP.
    function _cool() private {
        vm.cool(address(center));
        vm.cool(address(registry));
        for (uint256 nonce = 1; nonce < vm.getNonce(address(registry)); ++nonce) {
            vm.cool(address(uint160(uint256(keccak256(abi.encodePacked(hex"d694", registry, uint8(nonce)))))));
        }
    }

    function _verifyingCosts(uint256 signers) private returns (uint256) {
        (bytes memory signature, bytes memory missing) = vote("digest", 1, true, signers);
        _cool();
        uint256 before = gasleft();
        registry.verifyQuorum("digest", 1, true, signature, missing);
        return before - gasleft();
    }

    function test_verifyQuorum_CostsAPairingAndLittleMore() public {
        uint256 all = _verifyingCosts(ALL);
        assertTrue(all > 122_000, "the accounts were cold and the pairing real");
        assertTrue(all < 128_000, "nobody missing");
        assertTrue(_verifyingCosts(ALL >> 1) < all + 4500, "one missing");
        assertTrue(_verifyingCosts(ALL >> 3) < all + 4500 + 2 * 1400, "three missing");
    }

    function test_submitTask_CostsNoMoreThanItDid() public {
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, 1);
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, ALL);
        _cool();
        uint256 before = gasleft();
        center.submitTask(info, details);
        assertTrue(before - gasleft() < 172_000, "one task by itself");
    }

    function test_submitBatch_CostsTheSameForAnySize() public {
        uint256 one = _submitCosts("one", 1);
        uint256 many = _submitCosts("many", 256);
        assertTrue(one < 160_000 && many < 160_000, "one batch");
        assertTrue(one > many ? one - many < 100 : many - one < 100, "the same");
    }

    function _submitCosts(bytes32 root, uint32 size) private returns (uint256) {
        bytes32 digest = center.batchDigest(root, "document", size, 1, address(this));
        (bytes memory signature, bytes memory missing) = vote(digest, 1, true, ALL);
        _cool();
        uint256 before = gasleft();
        center.submitBatch(root, "document", size, 1, address(this), signature, missing);
        return before - gasleft();
    }
}
