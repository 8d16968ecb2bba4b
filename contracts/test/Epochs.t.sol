// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {Keys} from "./Keys.sol";
import {Network} from "./Network.sol";

/// @notice Rolling, and what a table holds. Branches: tree/rollEpoch.tree.
contract EpochsTest is Network {
    function test_rollEpoch_MayComeAtAnyMomentTheFirstTime() public {
        assertEq(registry.rollableAt(), 0, "at once");
        assertEq(registry.currentEpoch(), 0, "never rolled");
        join(1, ATTESTER, MINIMUM_STAKE);
        vm.prank(accountOf(9));
        assertEq(registry.rollEpoch(), 1, "by anyone");
        assertEq(registry.currentEpoch(), 1, "epoch");
    }

    function test_rollEpoch_RevertsBeforeTheEpochIsOverWhateverHasChanged() public {
        join(1, ATTESTER, MINIMUM_STAKE);
        registry.rollEpoch();
        join(2, ATTESTER, MINIMUM_STAKE);
        vm.deal(accountOf(1), 1);
        vm.prank(accountOf(1));
        registry.addStake{value: 1}();
        vm.prank(accountOf(2));
        registry.leave();

        uint64 due = uint64(START) + EPOCH_SECONDS;
        assertEq(registry.rollableAt(), due, "rollable at");
        vm.warp(due - 1);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.EpochNotOver.selector, due));
        registry.rollEpoch();
        vm.warp(due);
        assertEq(registry.rollEpoch(), 2, "on time");
    }

    function test_rollEpoch_FreezesTheActiveAttesters() public {
        join(1, ATTESTER, MINIMUM_STAKE);
        join(2, PERFORMER, MINIMUM_STAKE * 5);
        join(3, ATTESTER | PERFORMER, MINIMUM_STAKE * 2 + 1 gwei - 1);
        join(4, AGGREGATOR, MINIMUM_STAKE * 5);
        roll();
        (address[] memory members, bytes[] memory keys, uint64[] memory powers) = registry.tableOf(1);
        assertEq(members.length, 2, "attesters alone");
        assertEq(members[0], accountOf(1), "in the order of their seats");
        assertEq(members[1], accountOf(3), "in the order of their seats");
        assertEq(keys[0], Keys.publicKey(voteSecret(1)), "key");
        assertEq(keys[1], Keys.publicKey(voteSecret(3)), "key");
        assertEq(powers[0], MINIMUM_STAKE / 1 gwei, "power in gwei");
        assertEq(powers[1], MINIMUM_STAKE * 2 / 1 gwei, "power in gwei, rounded down");
    }

    function test_rollEpoch_KeepsTheCurrentAndThePreviousTableAlone() public {
        _expectUnknown(0, 0);
        _expectUnknown(1, 0);
        join(1, ATTESTER, MINIMUM_STAKE);
        roll();
        _expectUnknown(0, 1);
        _expectUnknown(2, 1);
        join(2, ATTESTER, MINIMUM_STAKE);
        roll();
        (address[] memory members,,) = registry.tableOf(1);
        assertEq(members.length, 1, "previous");
        (members,,) = registry.tableOf(2);
        assertEq(members.length, 2, "current");
        roll();
        _expectUnknown(1, 3);
        _expectUnknown(type(uint32).max, 3);
        (members,,) = registry.tableOf(2);
        assertEq(members.length, 2, "previous");
    }

    function _expectUnknown(uint32 epoch, uint32 current) private {
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.UnknownEpoch.selector, epoch, current));
        registry.tableOf(epoch);
    }

    function test_rollEpoch_OfNobodyApprovesAndRejectsNothing() public {
        roll();
        (address[] memory members,,) = registry.tableOf(1);
        assertEq(members.length, 0, "nobody");
        bytes memory signature = Keys.sign(1, "digest", "tag");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, 0, 0, true));
        registry.verifyQuorum("digest", 1, true, signature, "");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, 0, 0, false));
        registry.verifyQuorum("digest", 1, false, signature, "");
    }

    function test_rollEpoch_LeavesOutWhoIsBelowTheMinimumUntilTheyTopUp() public {
        join(1, ATTESTER, MINIMUM_STAKE);
        join(2, ATTESTER | PERFORMER, MINIMUM_STAKE);
        roll();
        settle("task", 2, false);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        uint256 amount = center.executeSlash("task");
        assertTrue(!registry.operatorOf(accountOf(2)).isActive, "below the minimum");
        roll();
        (address[] memory members,,) = registry.tableOf(2);
        assertEq(members.length, 1, "left out");
        assertEq(members[0], accountOf(1), "the other stays");

        vm.deal(accountOf(2), amount);
        vm.prank(accountOf(2));
        registry.addStake{value: amount}();
        assertTrue(registry.operatorOf(accountOf(2)).isActive, "back");
        roll();
        (members,,) = registry.tableOf(3);
        assertEq(members.length, 2, "back in");
    }

    function test_rollEpoch_WritesThePagesOfAnUnchangedSetOnce() public {
        join(1, ATTESTER, MINIMUM_STAKE);
        join(2, ATTESTER, MINIMUM_STAKE);
        uint64 nonce = vm.getNonce(address(registry));
        roll();
        assertEq(vm.getNonce(address(registry)), nonce + 3, "key page, member page, table");

        vm.deal(accountOf(1), 1 ether);
        vm.prank(accountOf(1));
        registry.addStake{value: 1 ether}();
        roll();
        assertEq(vm.getNonce(address(registry)), nonce + 4, "table alone");
        (,, uint64[] memory powers) = registry.tableOf(2);
        assertEq(powers[0], (MINIMUM_STAKE + 1 ether) / 1 gwei, "with the new power");
    }

    function test_rollEpoch_WritesNewPagesForAnotherSetOfTheSameSize() public {
        join(1, ATTESTER, MINIMUM_STAKE);
        join(2, ATTESTER, MINIMUM_STAKE);
        roll();
        vm.prank(accountOf(2));
        registry.leave();
        join(3, ATTESTER, MINIMUM_STAKE);
        roll();
        (address[] memory members, bytes[] memory keys,) = registry.tableOf(2);
        assertEq(members[0], accountOf(1), "who stayed");
        assertEq(members[1], accountOf(3), "who came");
        assertEq(keys[1], Keys.publicKey(voteSecret(3)), "with their key");
        (bytes memory signature, bytes memory missing) = vote("digest", 2, true, 3);
        registry.verifyQuorum("digest", 2, true, signature, missing);
        (signature, missing) = vote("digest", 1, true, 3);
        registry.verifyQuorum("digest", 1, true, signature, missing);
    }

    function test_rollEpoch_HoldsAFullTable() public {
        for (uint256 id = 1; id <= 127; ++id) {
            join(id, ATTESTER, MINIMUM_STAKE);
        }
        uint256 before = gasleft();
        roll();
        // EIP-7825 allows a transaction 16,777,216.
        assertTrue(before - gasleft() < 12_000_000, "a full roll fits into one transaction");

        bytes32 digest = keccak256("digest");
        // 85 of 127 is more than two thirds, 84 is not.
        uint256 signers = (1 << 85) - 1;
        (bytes memory signature, bytes memory missing) = vote(digest, 1, true, signers);
        assertEq(registry.verifyQuorum(digest, 1, true, signature, missing), 85 * MINIMUM_STAKE / 1 gwei, "85 of 127");
        (signature, missing) = vote(digest, 1, true, signers >> 1);
        uint256 total = 127 * MINIMUM_STAKE / 1 gwei;
        vm.expectRevert(
            abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, 84 * MINIMUM_STAKE / 1 gwei, total, true)
        );
        registry.verifyQuorum(digest, 1, true, signature, missing);
    }
}
