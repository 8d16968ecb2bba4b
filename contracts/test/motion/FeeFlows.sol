// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../../src/interfaces/IAttestationCenter.sol";
import {ITaskEscrow} from "../../src/interfaces/ITaskEscrow.sol";
import {Verdicts} from "./Verdicts.sol";

/// @notice Steps of who pays and who is paid for work.
abstract contract FeeFlows is Verdicts {
    struct Purse {
        uint256 balance;
        uint256 refunding;
        uint256 refundableAt;
    }

    struct Pool {
        bytes32 key;
        /// An encoded ITaskEscrow.Voters.
        bytes voters;
        uint256 amount;
        uint256 claimed;
    }

    uint256 internal constant TO_ATTESTERS = 3 gwei;
    uint256 internal constant TO_AGGREGATOR = 1 gwei;
    uint256 internal constant LEAST_FEE = 9 gwei;

    mapping(address requester => mapping(address performer => Purse)) internal purses;
    mapping(bytes32 paid => bool) private _isPaid;
    mapping(address account => uint256) internal earned;
    Pool[] internal pools;
    mapping(bytes32 key => uint256 indexPlusOne) private _poolOf;
    mapping(bytes32 key => mapping(uint256 seat => uint256)) private _taken;
    uint256 public attesterFees;
    uint256 public attesterClaims;

    // --- deposits ----------------------------------------------------------------------------------------------------

    function deposit(uint256 seed, uint256 amount) external {
        (address requester, address performer) = (requesterAt(seed), accountOf(idAt(seed >> 8)));
        amount = bound(amount, 0, 200 gwei);
        bytes4 refusal = isPaused(address(escrow)) ? ITaskEscrow.DepositsPaused.selector : bytes4(0);
        bytes memory message = abi.encodeCall(ITaskEscrow.deposit, (requester, performer, amount));
        attempt(accountOf(STRANGER_ID), address(escrow), amount, message, refusal);
        if (refusal == 0) purses[requester][performer].balance += amount;
    }

    function startRefund(uint256 seed, uint256 amount) external {
        askBack(requesterAt(seed), accountOf(idAt(seed >> 8)), bound(amount, 0, 100 gwei));
    }

    function askBack(address requester, address performer, uint256 amount) internal {
        Purse storage purse = purses[requester][performer];
        uint256 asked = amount < purse.balance ? amount : purse.balance;
        bytes4 refusal = asked == 0 ? ITaskEscrow.NothingToRefund.selector : bytes4(0);
        attempt(requester, address(escrow), abi.encodeCall(ITaskEscrow.startRefund, (performer, amount)), refusal);
        if (refusal == 0) (purse.refunding, purse.refundableAt) = (asked, block.timestamp + REFUND_DELAY);
    }

    /// @dev One that is due, if there is any and it is looked for.
    function refund(uint256 seed) external {
        (uint256 by, uint256 to) = (seed % REQUESTERS, (seed >> 8) % OPERATORS);
        for (uint256 i = 0; seed & 0xf00 != 0 && i < REQUESTERS * OPERATORS; ++i) {
            Purse storage purse = purses[requesterAt(by)][accountOf(idAt(to))];
            if (purse.refunding != 0 && block.timestamp >= purse.refundableAt) break;
            (by, to) = (by + i / OPERATORS, to + 1);
        }
        takeBack(requesterAt(by), accountOf(idAt(to)));
    }

    function takeBack(address requester, address performer) internal {
        Purse storage purse = purses[requester][performer];
        bytes4 refusal = 0;
        if (purse.refunding == 0) refusal = ITaskEscrow.NothingToRefund.selector;
        else if (block.timestamp < purse.refundableAt) refusal = ITaskEscrow.RefundNotDue.selector;
        attempt(requester, address(escrow), abi.encodeCall(ITaskEscrow.refund, (performer)), refusal);
        if (refusal != 0) return;
        goesTo(requester, purse.refunding);
        purse.balance -= purse.refunding;
        purse.refunding = 0;
        ++done["refund"];
    }

    // --- collecting --------------------------------------------------------------------------------------------------

    /// @dev As it is, twice in one call, with another verdict, or with somebody else's signature.
    function collect(uint256 seed) external {
        if (verdicts.length == 0) return;
        uint256 index = (seed >> 8) % verdicts.length;
        ITaskEscrow.Collection[] memory tasks = new ITaskEscrow.Collection[](isRare(seed, 6) ? 2 : 1);
        tasks[0] = collectionAt(index);
        if (tasks.length == 2) tasks[1] = tasks[0];
        bytes4 refusal = 0;
        if (isRare(seed, 7)) {
            tasks[0].isApproved = !tasks[0].isApproved;
            refusal = IAttestationCenter.NotSettled.selector;
        } else if (isRare(seed, 11)) {
            tasks[0].requesterSignature = ecdsaSignature(STRANGER_ID, verdicts[index].taskId);
            refusal = ITaskEscrow.RequesterSignatureMismatch.selector;
        }
        refusal = collectRefusal(tasks[0], verdicts[index], refusal);
        if (refusal == 0 && tasks.length == 2) refusal = ITaskEscrow.AlreadyPaid.selector;
        attempt(accountOf(STRANGER_ID), address(escrow), abi.encodeCall(ITaskEscrow.collect, (tasks)), refusal);
        if (refusal == 0) book(tasks[0]);
    }

    function collectRefusal(ITaskEscrow.Collection memory task, Verdict storage verdict, bytes4 forgery)
        private
        view
        returns (bytes4)
    {
        if (_isPaid[paidKey(task.request)]) return ITaskEscrow.AlreadyPaid.selector;
        if (forgery != 0) return forgery;
        if (verdict.definition == NARROW && !verdict.isSingle) return IAttestationCenter.NotSettled.selector;
        if (task.request.fee < LEAST_FEE) return ITaskEscrow.FeeTooSmall.selector;
        bool isCovered = costOf(task) <= purses[task.request.requester][task.request.performer].balance;
        return isCovered ? bytes4(0) : ITaskEscrow.DepositTooSmall.selector;
    }

    function paidKey(IAttestationCenter.TaskRequest memory request) private pure returns (bytes32) {
        return keccak256(abi.encode(request.requester, request.performer, request.nonce));
    }

    function costOf(ITaskEscrow.Collection memory task) private pure returns (uint256) {
        return task.isApproved ? task.request.fee : TO_ATTESTERS + TO_AGGREGATOR;
    }

    function book(ITaskEscrow.Collection memory task) private {
        _isPaid[paidKey(task.request)] = true;
        Purse storage purse = purses[task.request.requester][task.request.performer];
        purse.balance -= costOf(task);
        if (purse.refunding > purse.balance) purse.refunding = purse.balance;
        earned[task.request.performer] += costOf(task) - TO_ATTESTERS - TO_AGGREGATOR;
        earned[accountOf(AGGREGATOR_ID)] += TO_AGGREGATOR;
        attesterFees += TO_ATTESTERS;
        bytes memory voters = abi.encode(
            ITaskEscrow.Voters(task.epoch, setOf(task.request.taskDefinitionId), task.isApproved, task.indices)
        );
        bytes32 key = keccak256(voters);
        if (_poolOf[key] == 0) {
            pools.push(Pool(key, voters, 0, 0));
            _poolOf[key] = pools.length;
        }
        pools[_poolOf[key] - 1].amount += TO_ATTESTERS;
        ++done["collect"];
    }

    // --- claiming ----------------------------------------------------------------------------------------------------

    /// @dev Of a pool, and rarely in somebody else's name; or only what performers and aggregators have earned.
    function claim(uint256 seed, uint256 seat) external {
        if (pools.length == 0 || isRare(seed, 3)) {
            claimEarned(isRare(seed, 2) ? accountOf(AGGREGATOR_ID) : accountOf(idAt(seed)));
            return;
        }
        uint256 index = seed % pools.length;
        ITaskEscrow.Voters memory voters = votersAt(index);
        (address[] memory members,,) = tables.tableOf(voters.epoch, voters.attesterSet);
        seat = seat % members.length;
        claimShare(isRare(seed, 8) ? accountOf(idAt(seed)) : members[seat], index, seat);
    }

    function claimEarned(address account) internal {
        bytes4 refusal = earned[account] == 0 ? ITaskEscrow.NothingToClaim.selector : bytes4(0);
        bytes memory message =
            abi.encodeCall(ITaskEscrow.claim, (account, new ITaskEscrow.Voters[](0), new uint16[](0)));
        attempt(accountOf(STRANGER_ID), address(escrow), message, refusal);
        if (refusal == 0) payEarned(account);
    }

    function payEarned(address account) private {
        goesTo(account, earned[account]);
        earned[account] = 0;
    }

    /// @dev The pool is named twice: it gives its share once.
    function claimShare(address account, uint256 index, uint256 seat) internal {
        (address seated, uint256 share) = shareOf(index, seat);
        bytes32 key = pools[index].key;
        bytes4 refusal = 0;
        if (seated != account) refusal = ITaskEscrow.NotAVoter.selector;
        else if (share - _taken[key][seat] + earned[account] == 0) refusal = ITaskEscrow.NothingToClaim.selector;
        ITaskEscrow.Voters[] memory twice = new ITaskEscrow.Voters[](2);
        (twice[0], twice[1]) = (votersAt(index), votersAt(index));
        uint16[] memory seats = new uint16[](2);
        (seats[0], seats[1]) = (uint16(seat), uint16(seat));
        bytes memory message = abi.encodeCall(ITaskEscrow.claim, (account, twice, seats));
        attempt(accountOf(STRANGER_ID), address(escrow), message, refusal);
        if (refusal != 0) return;
        uint256 amount = share - _taken[key][seat];
        _taken[key][seat] = share;
        pools[index].claimed += amount;
        attesterClaims += amount;
        goesTo(account, amount);
        payEarned(account);
        ++done["claim"];
    }

    function votersAt(uint256 index) internal view returns (ITaskEscrow.Voters memory) {
        return abi.decode(pools[index].voters, (ITaskEscrow.Voters));
    }

    /// @dev Who sits there, if it voted so (else nobody), and its part of all that the pool ever got.
    function shareOf(uint256 index, uint256 seat) internal view returns (address seated, uint256 share) {
        ITaskEscrow.Voters memory voters = votersAt(index);
        (address[] memory members,, uint64[] memory powers) = tables.tableOf(voters.epoch, voters.attesterSet);
        uint256 listed = 0;
        uint256 total = 0;
        for (uint256 i = 0; i < voters.indices.length; ++i) {
            listed |= 1 << uint8(voters.indices[i]);
        }
        for (uint256 i = 0; i < members.length; ++i) {
            if ((listed >> i & 1 == 1) == voters.isApproval || powers[i] == 0) continue;
            total += powers[i];
            if (i == seat) (seated, share) = (members[i], pools[index].amount * powers[i]);
        }
        share = share == 0 ? 0 : share / total;
    }

    // --- what should be there ----------------------------------------------------------------------------------------

    function shouldBeHeld() internal view returns (uint256 sum) {
        for (uint256 i = 0; i < REQUESTERS; ++i) {
            for (uint256 id = 1; id <= OPERATORS; ++id) {
                sum += purses[requesterAt(i)][accountOf(id)].balance;
            }
        }
        for (uint256 id = 1; id <= OPERATORS; ++id) {
            sum += earned[accountOf(id)];
        }
        sum += earned[accountOf(AGGREGATOR_ID)];
        for (uint256 i = 0; i < pools.length; ++i) {
            sum += pools[i].amount - pools[i].claimed;
        }
    }
}
