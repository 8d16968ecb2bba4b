// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {Currency} from "../src/libraries/Currency.sol";
import {Reentrant, Refuser} from "./EscrowActors.sol";
import {EscrowNetwork} from "./EscrowNetwork.sol";

/// @notice Shares and what is claimed. Branches: tree/claim.tree.
contract RewardsTest is EscrowNetwork {
    address private constant ANYBODY = address(0xa11ce);

    function _powerOf(uint256 signers) private pure returns (uint256 signed) {
        for (uint256 seat = 0; seat < ATTESTERS; ++seat) {
            if (signers >> seat & 1 == 1) signed += powerOf(seat);
        }
    }

    /// @dev What the seat gets of a pool, by the protocol's words.
    function _shareOf(uint256 pool, uint256 signers, uint256 seat) private pure returns (uint256) {
        if (signers >> seat & 1 == 0) return 0;
        return pool * powerOf(seat) / _powerOf(signers);
    }

    // --- claim: what is paid -----------------------------------------------------------------------------------------

    function test_claim_PaysThePerformerAndTheAggregator() public {
        pay(0, true, EVERYBODY);
        pay(1, true, 7);
        uint256 earned = 2 * (FEE - TO_ATTESTERS - TO_AGGREGATOR);
        vm.expectEmit(address(escrow));
        emit ITaskEscrow.RewardsClaimed(performer, performer, earned);
        vm.prank(ANYBODY);
        assertEq(claimEarned(performer), earned, "amount");
        assertEq(performer.balance, earned, "paid");
        assertEq(escrow.earnedBy(performer), 0, "nothing left");
        assertEq(claimEarned(aggregator), 2 * TO_AGGREGATOR, "aggregator");
        assertEq(escrow.held(), DEPOSIT - earned - 2 * TO_AGGREGATOR, "held");
        assertEq(address(escrow).balance, escrow.held(), "the coin is here");
    }

    function test_claim_PaysEachVoterByPower() public {
        ITaskEscrow.Voters memory voters = pay(0, true, 11); // seat 2 did not vote
        uint256 paid = 0;
        for (uint16 seat = 0; seat < ATTESTERS; ++seat) {
            if (seat == 2) continue;
            uint256 share = _shareOf(TO_ATTESTERS, 11, seat);
            (address operator, uint256 amount) = escrow.claimableOf(voters, seat);
            assertEq(operator, attesterIn(seat), "operator");
            assertEq(amount, share, "claimable");
            assertEq(claimShare(operator, voters, seat), share, "claimed");
            assertEq(operator.balance, share, "paid");
            (, amount) = escrow.claimableOf(voters, seat);
            assertEq(amount, 0, "no longer claimable");
            paid += share;
        }
        uint256 dust = TO_ATTESTERS - paid;
        assertTrue(dust > 0 && dust < 3, "what rounding leaves is less than a unit a voter");
        assertEq(escrow.poolOf(voters), TO_ATTESTERS, "the pool counts all that went in");
        assertEq(escrow.held(), DEPOSIT - paid, "and the dust is held");
    }

    function test_claim_PaysWhoRejectedByPower() public {
        ITaskEscrow.Voters memory voters = pay(0, false, 6);
        assertEq(claimShare(attesterIn(1), voters, 1), TO_ATTESTERS * 1103 / 2404, "seat 1");
        assertEq(claimShare(attesterIn(2), voters, 2), TO_ATTESTERS * 1301 / 2404, "seat 2");
    }

    function test_claim_PaysAVoterInABatch() public {
        IAttestationCenter.TaskRequest[] memory requests = new IAttestationCenter.TaskRequest[](2);
        (requests[0], requests[1]) = (makeRequest(0), makeRequest(1));
        ITaskEscrow.Collection[] memory tasks = settleBatch(requests, 3, 7);
        escrow.collect(tasks);
        ITaskEscrow.Voters memory voters = votersOf(tasks[0]);
        assertEq(claimShare(attesterIn(0), voters, 0), _shareOf(2 * TO_ATTESTERS, 7, 0), "both tasks");
    }

    function test_claim_SumsPoolsAndWhatWasEarned() public {
        // The attester in seat 1 aggregated, too.
        aggregator = attesterIn(1);
        ITaskEscrow.Voters[] memory pools = new ITaskEscrow.Voters[](3);
        pools[0] = pay(0, true, EVERYBODY);
        pools[1] = pay(1, true, 7);
        pools[2] = pay(2, false, 6);
        uint16[] memory seats = new uint16[](3);
        (seats[0], seats[1], seats[2]) = (1, 1, 1);
        uint256 due = 3 * TO_AGGREGATOR + _shareOf(TO_ATTESTERS, EVERYBODY, 1) + _shareOf(TO_ATTESTERS, 7, 1)
            + _shareOf(TO_ATTESTERS, 6, 1);
        assertEq(escrow.claim(aggregator, pools, seats), due, "amount");
        assertEq(aggregator.balance, due, "paid");
    }

    function test_claim_OftenPaysWhatOncePays() public {
        ITaskEscrow.Voters memory voters;
        uint256 often = 0;
        for (uint256 nonce = 0; nonce < 7; ++nonce) {
            voters = pay(nonce, true, 7);
            often += claimShare(attesterIn(0), voters, 0);
        }
        uint256 share = _shareOf(7 * TO_ATTESTERS, 7, 0);
        assertTrue(share > 7 * _shareOf(TO_ATTESTERS, 7, 0), "rounded down once, not seven times");
        assertEq(often, share, "often");
        assertEq(claimShare(attesterIn(1), voters, 1), _shareOf(7 * TO_ATTESTERS, 7, 1), "once");
    }

    function test_claim_WorksForEverAfterTheTableExpired() public {
        ITaskEscrow.Voters memory voters = pay(0, true, EVERYBODY);
        address attester = attesterIn(0);
        vm.prank(attester);
        registry.leave(attester);
        for (uint256 i = 0; i < 3; ++i) {
            roll();
        }
        vm.warp(block.timestamp + 365 days);
        vm.prank(attester);
        registry.withdraw(attester);
        uint256 before = attester.balance;
        assertTrue(tables.isExpired(voters.epoch), "expired");
        assertEq(claimShare(attester, voters, 0), _shareOf(TO_ATTESTERS, EVERYBODY, 0), "amount");
        assertEq(attester.balance - before, _shareOf(TO_ATTESTERS, EVERYBODY, 0), "paid");
    }

    function test_claim_GoesByThePowerAtTheVotesEpoch() public {
        ITaskEscrow.Voters memory voters = pay(0, true, EVERYBODY);
        address attester = attesterIn(0);
        vm.deal(attester, 1000 ether);
        vm.prank(attester);
        registry.addStake{value: 1000 ether}(attester, 1000 ether);
        roll();
        assertEq(claimShare(attester, voters, 0), _shareOf(TO_ATTESTERS, EVERYBODY, 0), "the old share");
    }

    function _narrowRequest() private returns (IAttestationCenter.TaskRequest memory request) {
        IEpochTables.AttesterSet memory rules;
        (rules.minimumPower, rules.maximumPower) = (1100, 1200); // not seat 0; the others count 1103, 1200, 1200
        IAttestationCenter.TaskTerms memory narrow = terms();
        narrow.attesterSet = tables.createAttesterSet(rules);
        request = makeRequest(0);
        request.taskDefinitionId = addDefinition(narrow);
    }

    function test_claim_GoesByTheSetsPowers() public {
        IAttestationCenter.TaskRequest memory request = _narrowRequest();
        tables.rollSet(epoch, 1);
        ITaskEscrow.Collection memory task = settleSingly(request, true, EVERYBODY);
        collect(task);
        _assertSharedByTheSet(votersOf(task));
    }

    function test_claim_OfABatchedTaskWaitsForItsSetsTable() public {
        // Everybody's quorum settles a batch, so nobody needed the set's table until now.
        IAttestationCenter.TaskRequest[] memory requests = new IAttestationCenter.TaskRequest[](1);
        requests[0] = _narrowRequest();
        ITaskEscrow.Collection[] memory tasks = settleBatch(requests, 1, EVERYBODY);
        escrow.collect(tasks);
        (ITaskEscrow.Voters[] memory pools, uint16[] memory seats) = one(votersOf(tasks[0]), 1);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SetTableMissing.selector, epoch, 1));
        escrow.claim(attesterIn(1), pools, seats);
        tables.rollSet(epoch, 1);
        _assertSharedByTheSet(pools[0]);
    }

    function _assertSharedByTheSet(ITaskEscrow.Voters memory voters) private {
        _expectNotAVoter(attesterIn(0), voters, 0);
        assertEq(claimShare(attesterIn(1), voters, 1), TO_ATTESTERS * 1103 / 3503, "seat 1");
        assertEq(claimShare(attesterIn(2), voters, 2), TO_ATTESTERS * 1200 / 3503, "seat 2, capped");
        assertEq(claimShare(attesterIn(3), voters, 3), TO_ATTESTERS * 1200 / 3503, "seat 3, capped");
    }

    // --- claim: to whom ----------------------------------------------------------------------------------------------

    function test_claim_GoesToTheRewardsReceiver() public {
        pay(0, true, EVERYBODY);
        address cold = address(0xc01d);
        vm.prank(performer);
        registry.setRewardsReceiver(performer, cold);
        uint256 earned = FEE - TO_ATTESTERS - TO_AGGREGATOR;
        vm.expectEmit(address(escrow));
        emit ITaskEscrow.RewardsClaimed(performer, cold, earned);
        claimEarned(performer);
        assertEq(cold.balance, earned, "receiver");
        assertEq(performer.balance, 0, "not the operator");
    }

    function test_claim_PaysAnAggregatorThatNeverRegistered() public {
        aggregator = ANYBODY;
        pay(0, true, EVERYBODY);
        claimEarned(ANYBODY);
        assertEq(ANYBODY.balance, TO_AGGREGATOR, "paid to itself");
    }

    // --- claim: who gets nothing -------------------------------------------------------------------------------------

    function _expectNotAVoter(address operator, ITaskEscrow.Voters memory voters, uint16 seat) private {
        (ITaskEscrow.Voters[] memory pools, uint16[] memory seats) = one(voters, seat);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.NotAVoter.selector, seat));
        escrow.claim(operator, pools, seats);
    }

    function test_claim_RevertsForWhoDidNotVote() public {
        ITaskEscrow.Voters memory voters = pay(0, true, 11);
        _expectNotAVoter(attesterIn(2), voters, 2);
        (address operator, uint256 amount) = escrow.claimableOf(voters, 2);
        assertEq(operator, attesterIn(2), "who sits there");
        assertEq(amount, 0, "gets nothing");
        voters = pay(1, false, 6);
        _expectNotAVoter(attesterIn(0), voters, 0);
    }

    function test_claim_RevertsForSomebodyElsesSeat() public {
        ITaskEscrow.Voters memory voters = pay(0, true, EVERYBODY);
        _expectNotAVoter(attesterIn(1), voters, 0);
        _expectNotAVoter(ANYBODY, voters, 0);
    }

    function test_claim_RevertsForASeatThatIsNone() public {
        ITaskEscrow.Voters memory voters = pay(0, true, EVERYBODY);
        (ITaskEscrow.Voters[] memory pools, uint16[] memory seats) = one(voters, uint16(ATTESTERS));
        bytes memory refusal = abi.encodeWithSelector(IQuorumVerifier.IndexOutOfRange.selector, 0, ATTESTERS, ATTESTERS);
        vm.expectRevert(refusal);
        escrow.claim(address(0), pools, seats);
        vm.expectRevert(refusal);
        escrow.claimableOf(voters, uint16(ATTESTERS));
    }

    function test_claim_RevertsForVotersThatCannotBe() public {
        ITaskEscrow.Voters memory voters = pay(0, true, EVERYBODY);
        voters.epoch = 7;
        (ITaskEscrow.Voters[] memory pools, uint16[] memory seats) = one(voters, 0);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.UnknownEpoch.selector, 7, epoch));
        escrow.claim(attesterIn(0), pools, seats);
        (pools[0].epoch, pools[0].indices) = (epoch, hex"0101");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndexDuplicate.selector, 1, 1));
        escrow.claim(attesterIn(0), pools, seats);
    }

    function test_claim_RevertsForNothing() public {
        ITaskEscrow.Voters memory voters = pay(0, true, EVERYBODY);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.NothingToClaim.selector, ANYBODY));
        claimEarned(ANYBODY);
        // Those who voted, but not so: a pool that nothing went to.
        voters.indices = hex"03";
        (ITaskEscrow.Voters[] memory pools, uint16[] memory seats) = one(voters, 0);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.NothingToClaim.selector, attesterIn(0)));
        escrow.claim(attesterIn(0), pools, seats);
        (pools[0].indices, pools[0].isApproval) = (hex"00010203", false);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.NothingToClaim.selector, attesterIn(0)));
        escrow.claim(attesterIn(0), pools, seats);
    }

    function test_claim_RevertsASecondTime() public {
        ITaskEscrow.Voters memory voters = pay(0, true, EVERYBODY);
        claimEarned(performer);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.NothingToClaim.selector, performer));
        claimEarned(performer);
        claimShare(attesterIn(0), voters, 0);
        (ITaskEscrow.Voters[] memory pools, uint16[] memory seats) = one(voters, 0);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.NothingToClaim.selector, attesterIn(0)));
        escrow.claim(attesterIn(0), pools, seats);
    }

    function test_claim_PaysAShareOnceWithinOneCall() public {
        ITaskEscrow.Voters memory voters = pay(0, true, EVERYBODY);
        ITaskEscrow.Voters[] memory pools = new ITaskEscrow.Voters[](3);
        (pools[0], pools[1], pools[2]) = (voters, voters, voters);
        assertEq(escrow.claim(attesterIn(0), pools, new uint16[](3)), _shareOf(TO_ATTESTERS, EVERYBODY, 0), "once");
    }

    function test_claim_RevertsForAnotherNumberOfSeats() public {
        ITaskEscrow.Voters memory voters = pay(0, true, EVERYBODY);
        (ITaskEscrow.Voters[] memory pools,) = one(voters, 0);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.SeatsLength.selector, 2, 1));
        escrow.claim(attesterIn(0), pools, new uint16[](2));
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.SeatsLength.selector, 0, 1));
        escrow.claim(attesterIn(0), pools, new uint16[](0));
    }

    // --- claim: receivers that misbehave -----------------------------------------------------------------------------

    function _setReceiver(address receiver) private {
        vm.prank(performer);
        registry.setRewardsReceiver(performer, receiver);
    }

    function test_claim_RevertsWhenThePaymentFails() public {
        pay(0, true, EVERYBODY);
        address refuser = address(new Refuser());
        _setReceiver(refuser);
        uint256 earned = escrow.earnedBy(performer);
        vm.expectRevert(abi.encodeWithSelector(Currency.TransferFailed.selector, refuser, earned));
        claimEarned(performer);
        assertEq(escrow.earnedBy(performer), earned, "not lost");
        _setReceiver(performer);
        assertEq(claimEarned(performer), earned, "another receiver gets it");
    }

    function _expectOnePayment(bytes memory message, uint256 value) private {
        Reentrant thief = new Reentrant();
        vm.deal(address(this), value);
        thief.prepare{value: value}(address(escrow), message, value);
        _setReceiver(address(thief));
        uint256 earned = escrow.earnedBy(performer);
        uint256 held = escrow.held();
        claimEarned(performer);
        assertTrue(thief.wasCalled() && !thief.succeeded(), "the call from within failed");
        assertEq(bytes4(thief.answer()), ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector, "guarded");
        assertEq(address(thief).balance, earned + value, "paid once");
        assertEq(escrow.held(), held - earned, "the others' money");
    }

    function test_claim_PaysAReceiverThatClaimsAgainOnce() public {
        pay(0, true, EVERYBODY);
        ITaskEscrow.Voters[] memory pools = new ITaskEscrow.Voters[](0);
        _expectOnePayment(abi.encodeCall(ITaskEscrow.claim, (performer, pools, new uint16[](0))), 0);
    }

    function test_claim_PaysAReceiverThatCollectsOnce() public {
        pay(0, true, EVERYBODY);
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(1), true, EVERYBODY);
        _expectOnePayment(abi.encodeCall(ITaskEscrow.collect, (list(task))), 0);
        assertTrue(!escrow.isPaid(requester, performer, 1), "not collected from within");
    }

    function test_claim_PaysAReceiverThatDepositsOnce() public {
        pay(0, true, EVERYBODY);
        _expectOnePayment(abi.encodeCall(ITaskEscrow.deposit, (requester, performer, 5)), 5);
    }

    // --- conservation ------------------------------------------------------------------------------------------------

    /// @dev However a pool is filled and claimed from, in whatever order, nobody gets more than their share, and all
    /// together no more than the pool.
    function testFuzz_claim_SharesNeverExceedThePool(uint256 seed) public {
        ITaskEscrow.Voters memory voters;
        uint256 tasks = 0;
        uint256[ATTESTERS] memory paid;
        for (uint256 i = 0; i < 8; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            if (i == 0 || seed & 1 == 0) voters = pay(tasks++, true, EVERYBODY);
            uint16 seat = uint16(seed >> 8) % uint16(ATTESTERS);
            (address operator, uint256 claimable) = escrow.claimableOf(voters, seat);
            if (claimable != 0) paid[seat] += claimShare(operator, voters, seat);
        }
        uint256 sum = 0;
        for (uint16 seat = 0; seat < ATTESTERS; ++seat) {
            (address operator, uint256 claimable) = escrow.claimableOf(voters, seat);
            if (claimable != 0) paid[seat] += claimShare(operator, voters, seat);
            assertEq(paid[seat], _shareOf(tasks * TO_ATTESTERS, EVERYBODY, seat), "the exact share");
            sum += paid[seat];
        }
        assertTrue(sum <= tasks * TO_ATTESTERS, "no more than the pool");
        assertTrue(sum + ATTESTERS > tasks * TO_ATTESTERS, "and less than a unit a voter is left");
    }
}
