// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {EscrowNetwork} from "./EscrowNetwork.sol";

/// @notice Whatever everybody does, in whatever order: every wei that came is somewhere, and is here.
contract EscrowConservationTest is EscrowNetwork {
    uint256 private constant STEPS = 24;

    ITaskEscrow.Voters[] private _pools;
    mapping(bytes32 pool => bool) private _isListed;
    uint256 private _fromPools;
    uint256 private _nonce;

    function _performerId(uint256 random) private pure returns (uint256) {
        return random & 1 == 0 ? PERFORMER_ID : OTHER_PERFORMER_ID;
    }

    /// forge-config: default.fuzz.runs = 64
    function testFuzz_conservation_HeldIsAllThatLiesHere(uint256 seed) public {
        uint256 came = DEPOSIT;
        uint256 went = 0;
        for (uint256 i = 0; i < STEPS; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 step = seed % 8;
            uint256 random = seed >> 8;
            if (step == 0) came += _deposit(random);
            else if (step < 5) _collect(random);
            else if (step == 5) _startRefund(random);
            else if (step == 6) went += _refund(random);
            else went += _claim(random);
            if (random >> 200 & 3 == 0) vm.warp(block.timestamp + random % REFUND_DELAY);
            assertEq(escrow.held(), came - went, "held is what came and did not go");
            assertEq(address(escrow).balance, escrow.held(), "and lies here");
            assertEq(_sum(), escrow.held(), "and belongs to somebody");
        }
    }

    function _deposit(uint256 random) private returns (uint256 amount) {
        amount = random % 50 gwei;
        give(accountOf(_performerId(random >> 100)), amount);
    }

    /// @dev One task by itself, or two in a batch; refused where the deposit is too small.
    function _collect(uint256 random) private {
        ITaskEscrow.Collection[] memory tasks;
        bool isApproved = random & 2 == 0;
        uint256 signers = [uint256(15), 7, 11, 13][random >> 3 & 3];
        if (random & 4 == 0) {
            tasks = list(settleSingly(_randomRequest(random), isApproved, signers));
        } else {
            IAttestationCenter.TaskRequest[] memory requests = new IAttestationCenter.TaskRequest[](2);
            (requests[0], requests[1]) = (_randomRequest(random), _randomRequest(random >> 64));
            tasks = settleBatch(requests, random >> 9, signers);
        }
        try escrow.collect(tasks) {
            for (uint256 i = 0; i < tasks.length; ++i) {
                _listPool(votersOf(tasks[i]));
            }
        } catch (bytes memory problem) {
            assertEq(bytes4(problem), ITaskEscrow.DepositTooSmall.selector, "the only reason");
        }
    }

    function _randomRequest(uint256 random) private returns (IAttestationCenter.TaskRequest memory) {
        uint256 fee = bound(random, TO_PERFORMER + TO_ATTESTERS + TO_AGGREGATOR, 400 gwei);
        return makeRequest(REQUESTER_ID, _nonce++, _performerId(random), fee);
    }

    function _listPool(ITaskEscrow.Voters memory voters) private {
        bytes32 key = keccak256(abi.encode(voters));
        if (_isListed[key]) return;
        _isListed[key] = true;
        _pools.push(voters);
    }

    function _startRefund(uint256 random) private {
        address to = accountOf(_performerId(random));
        if (balanceOf(requester, to) == 0) return;
        vm.prank(requester);
        escrow.startRefund(to, bound(random >> 1, 1, DEPOSIT));
    }

    function _refund(uint256 random) private returns (uint256 amount) {
        address to = accountOf(_performerId(random));
        ITaskEscrow.Deposit memory made = escrow.depositOf(requester, to);
        if (made.refunding == 0 || made.refundableAt > block.timestamp) return 0;
        uint256 before = requester.balance;
        vm.prank(requester);
        amount = escrow.refund(to);
        assertEq(requester.balance - before, made.refunding, "the exact wei");
    }

    function _claim(uint256 random) private returns (uint256 amount) {
        address operator =
            [performer, accountOf(OTHER_PERFORMER_ID), aggregator, attesterIn(random & 3)][random >> 2 & 3];
        uint256 earned = escrow.earnedBy(operator);
        uint16 seat = uint16(random & 3);
        if (_pools.length == 0 || operator != attesterIn(seat)) return earned == 0 ? 0 : claimEarned(operator);
        ITaskEscrow.Voters memory voters = _pools[random % _pools.length];
        (, uint256 claimable) = escrow.claimableOf(voters, seat);
        if (claimable == 0) return 0;
        amount = claimShare(operator, voters, seat);
        assertEq(amount, earned + claimable, "what was claimable");
        _fromPools += claimable;
    }

    function _sum() private view returns (uint256 sum) {
        address other = accountOf(OTHER_PERFORMER_ID);
        sum = balanceOf(requester, performer) + balanceOf(requester, other);
        sum += escrow.earnedBy(performer) + escrow.earnedBy(other) + escrow.earnedBy(aggregator);
        for (uint256 i = 0; i < _pools.length; ++i) {
            sum += escrow.poolOf(_pools[i]);
        }
        sum -= _fromPools;
        assertTrue(_isBacked(performer) && _isBacked(other), "no refund is more than there is");
    }

    function _isBacked(address to) private view returns (bool) {
        ITaskEscrow.Deposit memory made = escrow.depositOf(requester, to);
        return made.refunding <= made.balance;
    }
}
