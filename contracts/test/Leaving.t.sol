// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {IOperatorSource} from "../src/interfaces/IOperatorSource.sol";
import {Currency} from "../src/libraries/Currency.sol";
import {RegistryNetwork, TestCourt} from "./RegistryNetwork.sol";

/// @notice The ways that stake goes out. Branches: tree/{leave,withdraw,slashOperator}.tree.
contract LeavingTest is RegistryNetwork {
    uint256 private constant ID = 1;
    uint256 private constant WAD = 1e18;
    bytes32 private constant PANIC_ARITHMETIC = bytes32(uint256(0x11));
    address private immutable patron = address(uint160(uint256(keccak256("patron"))));
    address private account;

    function setUp() public override {
        super.setUp();
        account = accountOf(ID);
    }

    function _joinAndLeave(uint8 roles) private {
        join(ID, roles, MINIMUM_STAKE);
        leaveAs(account, account);
    }

    function _unbond() private {
        vm.warp(block.timestamp + UNBONDING_SECONDS);
    }

    // --- leave -------------------------------------------------------------------------------------------------------

    function test_leave_RevertsForStrangersAndASecondTime() public {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, account));
        registry.leave(account);
        _joinAndLeave(PERFORMER);
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.AlreadyLeft.selector, account));
        registry.leave(account);
    }

    function test_leave_IsTheOwnersAlone() public {
        joinBy(patron, ID, ATTESTER, MINIMUM_STAKE);
        // A stolen hot key must not end an operator.
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.OnlyOwner.selector, account, patron));
        registry.leave(account);
        leaveAs(patron, account);
        assertTrue(!registry.operatorOf(account).isActive, "the owner may");
    }

    function test_leave_TakesTheOperatorOutOfTheNextTable() public {
        join(1, ATTESTER, MINIMUM_STAKE);
        join(2, ATTESTER, MINIMUM_STAKE);
        join(3, ATTESTER, MINIMUM_STAKE);
        roll();
        uint64 withdrawableAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.OperatorLeft(account, withdrawableAt);
        leaveAs(account, account);
        IOperatorRegistry.Operator memory operator = registry.operatorOf(account);
        assertTrue(!operator.isActive, "not active");
        assertEq(operator.withdrawableAt, withdrawableAt, "withdrawable at");
        assertEq(operator.stake, MINIMUM_STAKE, "the stake stays");
        assertEq(operator.voteKey, "", "no key in the next table");
        assertEq(registry.rolesOf(account), ATTESTER, "still answerable for old tasks");
        assertEq(_powerIn(1, account), MINIMUM_STAKE / POWER_UNIT, "the frozen table does not move");

        assertTrue(tables.rollableAt() <= block.timestamp, "the next roll is due at once");
        roll();
        assertEq(_powerIn(2, account), 0, "the next one is without it");
        assertEq(_powerIn(2, accountOf(2)), MINIMUM_STAKE / POWER_UNIT, "the others stay");
        assertEq(_powerIn(2, accountOf(3)), MINIMUM_STAKE / POWER_UNIT, "all of them");
    }

    function test_leave_OfAPerformerIsNoReasonToRoll() public {
        join(2, ATTESTER, MINIMUM_STAKE);
        roll();
        _joinAndLeave(PERFORMER);
        assertTrue(tables.rollableAt() > block.timestamp, "not due");
    }

    function _powerIn(uint32 epoch, address operator) private view returns (uint256) {
        (address[] memory members,, uint64[] memory powers) = tables.tableOf(epoch, 0);
        for (uint256 i = 0; i < members.length; ++i) {
            if (members[i] == operator) return powers[i];
        }
        return 0;
    }

    // --- withdraw ----------------------------------------------------------------------------------------------------

    function _expectNoWithdrawal(bytes memory refusal) private {
        vm.prank(account);
        vm.expectRevert(refusal);
        registry.withdraw(account);
    }

    function test_withdraw_PaysTheExactWei() public {
        uint256 stake = MINIMUM_STAKE + 123;
        join(2, PERFORMER, MINIMUM_STAKE);
        joinBy(patron, ID, PERFORMER, stake);
        leaveAs(patron, account);
        _unbond();
        uint256 before = patron.balance;
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.StakeWithdrawn(account, patron, stake);
        withdrawAs(patron, account);
        assertEq(patron.balance, before + stake, "the owner is paid");
        assertEq(account.balance, 0, "the operator is not");
        assertEq(registry.totalStake(), MINIMUM_STAKE, "the other's stake stays");
        assertEq(address(registry).balance, MINIMUM_STAKE, "balance");
        IOperatorRegistry.Operator memory operator = registry.operatorOf(account);
        assertEq(operator.stake, 0, "no stake");
        assertEq(operator.peerKey, peerKeyOf(ID), "still described");
        assertTrue(!operator.isActive, "not active");
        assertEq(registry.rolesOf(account), PERFORMER, "still answerable for old tasks");
        assertEq(registry.rewardsReceiverOf(account), patron, "still rewarded for them");
    }

    function test_withdraw_RevertsForWhoCannot() public {
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, account));
        join(ID, PERFORMER, MINIMUM_STAKE);
        vm.prank(patron);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.OnlyOwner.selector, patron, account));
        registry.withdraw(account);
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.NotLeft.selector, account));
        leaveAs(account, account);
        uint64 withdrawableAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        vm.warp(withdrawableAt - 1);
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.StillBonded.selector, account, withdrawableAt));
        vm.warp(withdrawableAt);
        withdrawAs(account, account);
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.AlreadyWithdrawn.selector, account));
        assertEq(account.balance, MINIMUM_STAKE, "paid once");
    }

    function test_withdraw_IsTheOwnersAlone() public {
        joinBy(patron, ID, PERFORMER, MINIMUM_STAKE);
        leaveAs(patron, account);
        _unbond();
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.OnlyOwner.selector, account, patron));
    }

    function test_withdraw_WaitsUntilNoValidTableCountsTheOperator() public {
        join(ID, ATTESTER, MINIMUM_STAKE);
        roll();
        roll();
        leaveAs(account, account);
        _unbond();
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.StillInTable.selector, account, 2);
        _expectNoWithdrawal(refusal);
        roll();
        _expectNoWithdrawal(refusal);
        vm.warp(block.timestamp + GRACE_SECONDS - 1);
        assertTrue(!tables.isExpired(2), "the last second of the table");
        _expectNoWithdrawal(refusal);
        vm.warp(block.timestamp + 2);
        assertTrue(tables.isExpired(2), "over");
        withdrawAs(account, account);
        assertEq(address(registry).balance, 0, "paid");
    }

    function test_withdraw_NeedsNoRollBeforeTheFirst() public {
        _joinAndLeave(ATTESTER);
        _unbond();
        withdrawAs(account, account);
        assertEq(account.balance, MINIMUM_STAKE, "paid");
    }

    function test_withdraw_NeedsNoRollForAPerformer() public {
        join(2, ATTESTER, MINIMUM_STAKE);
        roll();
        _joinAndLeave(PERFORMER);
        _unbond();
        withdrawAs(account, account);
        assertEq(account.balance, MINIMUM_STAKE, "paid");
    }

    function test_withdraw_WaitsForEverySlashThatWaits() public {
        _joinAndLeave(PERFORMER);
        _unbond();
        // Reported in the last moment before the withdrawal: the stake still answers for it.
        judge.hold(account);
        judge.hold(account);
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.SlashPending.selector, account, 2));
        judge.release(account);
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.SlashPending.selector, account, 1));
        uint256 amount = judge.slash(account, 0.1e18);
        withdrawAs(account, account);
        assertEq(amount, MINIMUM_STAKE / 10, "slashed");
        assertEq(account.balance, MINIMUM_STAKE - amount, "the rest is paid");
    }

    function test_withdraw_LetsGoWhoHasNothingLeft() public {
        _joinAndLeave(PERFORMER);
        slash(account, WAD);
        _unbond();
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.StakeWithdrawn(account, account, 0);
        withdrawAs(account, account);
        assertEq(registry.operatorCount(), 0, "no longer listed");
    }

    function test_withdraw_UnlistsWhereverItStands() public {
        for (uint256 id = 1; id <= 10; ++id) {
            join(id, PERFORMER, MINIMUM_STAKE);
            leaveAs(accountOf(id), accountOf(id));
        }
        _unbond();
        // The first, whom the last replaces; the last of those left; that replacement; one amid a slot.
        uint8[4] memory order = [1, 9, 10, 4];
        for (uint256 i = 0; i < 4; ++i) {
            address gone = accountOf(order[i]);
            withdrawAs(gone, gone);
            assertTrue(!isListed(gone), "gone from the list");
            assertEq(registry.operatorCount(), 9 - i, "one less");
        }
        uint8[6] memory rest = [2, 3, 5, 6, 7, 8];
        for (uint256 i = 0; i < 6; ++i) {
            assertTrue(isListed(accountOf(rest[i])), "still listed");
        }
        join(11, PERFORMER, MINIMUM_STAKE);
        assertEq(registry.operatorsFrom(6, 1)[0].operator, accountOf(11), "the next one comes last");
    }

    function test_withdraw_RevertsWhenThePaymentFails() public {
        Refuser refuser = new Refuser();
        vm.deal(address(refuser), MINIMUM_STAKE);
        refuser.register(registry);
        _unbond();
        vm.expectRevert(abi.encodeWithSelector(Currency.TransferFailed.selector, address(refuser), MINIMUM_STAKE));
        refuser.withdraw();
        assertEq(registry.totalStake(), MINIMUM_STAKE, "nothing moved");
    }

    function test_withdraw_PaysAReentrantCallerOnce() public {
        Reenterer thief = new Reenterer();
        vm.deal(address(thief), MINIMUM_STAKE);
        join(2, PERFORMER, MINIMUM_STAKE);
        thief.register(registry);
        _unbond();
        thief.withdraw();
        assertEq(
            thief.refusal(),
            abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector),
            "the second call was refused"
        );
        assertEq(address(thief).balance, MINIMUM_STAKE, "paid once");
        assertEq(address(registry).balance, MINIMUM_STAKE, "the other's stake is here");
    }

    // --- holdExit, releaseExit ---------------------------------------------------------------------------------------

    function test_holdExit_IsForTheCourtAlone() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        bytes memory refusal = abi.encodeWithSelector(IOperatorSource.OnlyCourt.selector, owner);
        vm.startPrank(owner);
        vm.expectRevert(refusal);
        registry.holdExit(account);
        vm.expectRevert(refusal);
        registry.releaseExit(account);
        vm.expectRevert(refusal);
        registry.slash(account, 1);
    }

    function test_holdExit_RevertsForAStranger() public {
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, account);
        vm.expectRevert(refusal);
        judge.hold(account);
        vm.expectRevert(refusal);
        judge.release(account);
        vm.expectRevert(refusal);
        judge.slash(account, WAD);
    }

    function test_releaseExit_TakesBackNoMoreThanThereIs() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        bytes memory refusal = abi.encodeWithSignature("Panic(uint256)", PANIC_ARITHMETIC);
        vm.expectRevert(refusal);
        judge.release(account);
        vm.expectRevert(refusal);
        judge.slash(account, WAD);
    }

    // --- slash -------------------------------------------------------------------------------------------------------

    function test_slash_PaysTheCourtItsShare() public {
        join(2, PERFORMER, MINIMUM_STAKE);
        join(ID, PERFORMER, MINIMUM_STAKE + 99);
        judge.hold(account);
        uint256 amount = (MINIMUM_STAKE + 99) / 100;
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.OperatorSlashed(account, amount, MINIMUM_STAKE + 99 - amount);
        assertEq(judge.slash(account, 0.01e18), amount, "1 %, rounded down");
        assertEq(address(judge).balance, amount, "paid");
        assertEq(registry.operatorOf(account).stake, MINIMUM_STAKE + 99 - amount, "stake");
        assertEq(registry.operatorOf(accountOf(2)).stake, MINIMUM_STAKE, "nobody else's");
        assertEq(registry.totalStake(), address(registry).balance, "every wei is somebody's");
    }

    function test_slash_TakesNoMoreThanAll() public {
        join(2, PERFORMER, MINIMUM_STAKE);
        join(ID, PERFORMER, MINIMUM_STAKE);
        judge.hold(account);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", PANIC_ARITHMETIC));
        judge.slash(account, WAD + 1);
        assertEq(judge.slash(account, WAD), MINIMUM_STAKE, "all of it");
    }

    function test_slash_TakesThePowerAtOnce() public {
        join(2, ATTESTER, MINIMUM_STAKE);
        join(ID, ATTESTER, 10 * MINIMUM_STAKE);
        roll();
        judge.hold(account);
        vm.expectEmit(address(tables));
        emit IEpochTables.PowerChanged(account, 1, uint32(9 * MINIMUM_STAKE / POWER_UNIT));
        judge.slash(account, 0.1e18);
        assertTrue(tables.rollableAt() <= block.timestamp, "the next roll is due at once");
        roll();
        assertEq(_powerIn(2, account), 9 * MINIMUM_STAKE / POWER_UNIT, "the next table counts the rest");
    }

    function test_slash_BelowTheMinimumLeavesASeatWithoutAVote() public {
        join(ID, ATTESTER, MINIMUM_STAKE);
        join(2, ATTESTER, MINIMUM_STAKE);
        roll();
        slash(account, 0.01e18);
        assertTrue(!registry.operatorOf(account).isActive, "not active");
        roll();
        assertEq(_powerIn(2, account), 0, "no power");

        uint256 missing = MINIMUM_STAKE / 100;
        vm.deal(patron, missing);
        vm.prank(patron);
        registry.addStake{value: missing}(account, missing);
        assertTrue(registry.operatorOf(account).isActive, "active again");
        roll();
        assertEq(_powerIn(3, account), MINIMUM_STAKE / POWER_UNIT, "the vote is back");
    }

    function test_slash_OfLessThanAUnitIsNoReasonToRoll() public {
        join(ID, ATTESTER, 2 * MINIMUM_STAKE + POWER_UNIT / 2);
        roll();
        slash(account, 1);
        assertEq(registry.operatorOf(account).stake, 2 * MINIMUM_STAKE + POWER_UNIT / 2 - 2, "two wei");
        assertTrue(tables.rollableAt() > block.timestamp, "the power is the same");
    }

    function test_slash_ReachesWhoIsLeaving() public {
        join(ID, ATTESTER, MINIMUM_STAKE);
        roll();
        leaveAs(account, account);
        assertEq(slash(account, WAD), MINIMUM_STAKE, "all of it");
        assertEq(address(judge).balance, MINIMUM_STAKE, "paid");
        assertEq(address(registry).balance, 0, "nothing left");
    }

    function test_slash_OfNothingDoesNotRevert() public {
        join(ID, ATTESTER, MINIMUM_STAKE);
        assertEq(slash(account, WAD), MINIMUM_STAKE, "all of it");
        assertEq(slash(account, WAD), 0, "nothing is left");
        leaveAs(account, account);
        _unbond();
        withdrawAs(account, account);
        assertEq(slash(account, 0.1e18), 0, "nor for who is gone");
        assertEq(address(judge).balance, MINIMUM_STAKE, "paid once");
    }

    function test_slash_OfWhoIsGoneTakesNobodyElses() public {
        join(2, PERFORMER, MINIMUM_STAKE);
        _joinAndLeave(PERFORMER);
        _unbond();
        withdrawAs(account, account);
        assertEq(slash(account, WAD), 0, "nothing of another's");
        assertEq(registry.operatorOf(accountOf(2)).stake, MINIMUM_STAKE, "the other's stake");
    }

    function test_slash_RevertsWhenTheCourtTakesNothing() public {
        judge = new GreedyCourt(registry);
        _useCourt();
        join(ID, PERFORMER, MINIMUM_STAKE);
        GreedyCourt(payable(address(judge))).refuse();
        judge.hold(account);
        vm.expectRevert(abi.encodeWithSelector(Currency.TransferFailed.selector, address(judge), MINIMUM_STAKE / 10));
        judge.slash(account, 0.1e18);
    }

    function test_slash_PaysAReentrantCourtOnce() public {
        judge = new GreedyCourt(registry);
        _useCourt();
        join(ID, PERFORMER, MINIMUM_STAKE);
        GreedyCourt(payable(address(judge))).aimAt(account);
        judge.hold(account);
        slash(account, 0.1e18);
        assertEq(
            GreedyCourt(payable(address(judge))).refusal(),
            abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector),
            "the second call was refused"
        );
        assertEq(address(judge).balance, MINIMUM_STAKE / 10, "paid once");
    }

    /// @dev A fresh registry under `judge`, which has to be told its name.
    function _useCourt() private {
        tables = IEpochTables(deploy("EpochTables.sol:EpochTables", abi.encode(EPOCH_SECONDS, GRACE_SECONDS)));
        registry = deployRegistry(address(tables), address(0), MINIMUM_STAKE, POWER_UNIT, UNBONDING_SECONDS);
        GreedyCourt(payable(address(judge))).serve(registry);
        registry.setCourt(address(judge));
    }

    function testFuzz_slash_MakesAndLosesNoWei(uint256 stake, uint256[8] memory wads) public {
        stake = bound(stake, MINIMUM_STAKE, type(uint96).max);
        join(2, ATTESTER, MINIMUM_STAKE);
        join(ID, ATTESTER, stake);
        uint256 rest = stake;
        for (uint256 i = 0; i < 8; ++i) {
            uint256 wad = bound(wads[i], 0, WAD);
            uint256 amount = slash(account, wad);
            assertEq(amount, rest * wad / WAD, "the share of what there is");
            rest -= amount;
            roll();
            uint256 power = rest < MINIMUM_STAKE ? 0 : rest / POWER_UNIT;
            if (power > type(uint32).max) power = type(uint32).max;
            assertEq(_powerIn(tables.currentEpoch(), account), power, "power follows stake");
        }
        assertEq(address(judge).balance, stake - rest, "the court has it");
        leaveAs(account, account);
        _unbond();
        roll();
        vm.warp(block.timestamp + GRACE_SECONDS + 1);
        withdrawAs(account, account);
        assertEq(account.balance, rest, "the owner has the rest");
        assertEq(address(registry).balance, MINIMUM_STAKE, "nobody else's");
        assertEq(registry.totalStake(), MINIMUM_STAKE, "total stake");
    }
}

/// Takes no ether back.
contract Refuser {
    IOperatorRegistry internal registry;

    function register(IOperatorRegistry registry_) external {
        registry = registry_;
        IOperatorRegistry.Registration memory made;
        (made.roles, made.stake, made.peerKey) = (1, registry.minimumStake(), keccak256("peer of a contract"));
        registry.register{value: made.stake}(made);
        registry.leave(address(this));
    }

    function withdraw() external {
        registry.withdraw(address(this));
    }
}

/// Asks for its stake again while it is being paid.
contract Reenterer is Refuser {
    bytes public refusal;

    receive() external payable {
        try registry.withdraw(address(this)) {}
        catch (bytes memory reason) {
            refusal = reason;
        }
    }
}

/// Slashes again while it is being paid, or takes nothing.
contract GreedyCourt is TestCourt {
    bytes public refusal;
    address private _target;
    bool private _refuses;

    constructor(IOperatorRegistry operators_) TestCourt(operators_, 1) {}

    function serve(IOperatorRegistry operators_) external {
        operators = operators_;
    }

    function refuse() external {
        _refuses = true;
    }

    function aimAt(address target) external {
        _target = target;
    }

    receive() external payable override {
        require(!_refuses, "no, thank you");
        try operators.slash(_target, 1e18) {}
        catch (bytes memory reason) {
            refusal = reason;
        }
    }
}
