// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {Currency} from "../src/libraries/Currency.sol";
import {RegistryNetwork} from "./RegistryNetwork.sol";
import {CallingToken, FalseToken, FeeToken, NoZeroToken, PlainToken, SilentToken} from "./Tokens.sol";

/// @notice Stake in an ERC-20, in good ones and in bad ones. Branches: tree/stakeToken.tree.
contract StakeTokenTest is RegistryNetwork {
    uint256 private constant ID = 1;
    address private account;
    PlainToken private token;

    function setUp() public override {
        super.setUp();
        account = accountOf(ID);
        _use(new PlainToken());
    }

    /// @dev A fresh registry for stake in `token_`, of which the first operators have plenty.
    function _use(PlainToken token_) private {
        token = token_;
        deployStake(address(token));
        for (uint256 id = 1; id <= 3; ++id) {
            token.mint(accountOf(id), 1000 ether);
            vm.prank(accountOf(id));
            token.approve(address(registry), type(uint256).max);
        }
    }

    function _register(uint256 id, uint8 roles, uint256 stake, bytes memory refusal) private {
        IOperatorRegistry.Registration memory made = registration(id, roles, stake);
        vm.prank(accountOf(id));
        if (refusal.length != 0) vm.expectRevert(refusal);
        registry.register(made);
    }

    function _leaveAndWithdraw(uint256 id) private {
        leaveAs(accountOf(id), accountOf(id));
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        withdrawAs(accountOf(id), accountOf(id));
    }

    // --- a good token ------------------------------------------------------------------------------------------------

    function test_token_GoesInAndOut() public {
        assertEq(registry.stakeToken(), address(token), "stake token");
        _register(ID, ATTESTER, 2 ether, "");
        assertEq(token.balanceOf(address(registry)), 2 ether, "in");
        assertEq(token.balanceOf(account), 998 ether, "from the owner");
        vm.prank(accountOf(2));
        registry.addStake(account, 3 ether);
        assertEq(token.balanceOf(accountOf(2)), 997 ether, "from who adds");
        assertEq(registry.operatorOf(account).stake, 5 ether, "stake");
        roll();
        (,, uint64[] memory powers) = tables.tableOf(1, 0);
        assertEq(powers[0], 5 ether / POWER_UNIT, "power");

        assertEq(slash(account, 0.1e18), 0.5 ether, "slashed");
        assertEq(token.balanceOf(address(judge)), 0.5 ether, "to the court");
        leaveAs(account, account);
        roll();
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        withdrawAs(account, account);
        assertEq(token.balanceOf(account), 1002.5 ether, "out");
        assertEq(token.balanceOf(address(registry)), 0, "nothing stays");
        assertEq(registry.totalStake(), 0, "total stake");
    }

    function test_token_TakesNoCoinBesides() public {
        IOperatorRegistry.Registration memory made = registration(ID, PERFORMER, MINIMUM_STAKE);
        vm.deal(account, 10);
        vm.startPrank(account);
        bytes memory refusal = abi.encodeWithSelector(Currency.WrongValue.selector, 10, 0);
        vm.expectRevert(refusal);
        registry.register{value: 10}(made);
        registry.register(made);
        vm.expectRevert(refusal);
        registry.addStake{value: 10}(account, 10);
    }

    function test_token_TakesNothingWithoutApproval() public {
        vm.prank(account);
        token.approve(address(registry), MINIMUM_STAKE - 1);
        bytes memory refusal = abi.encodeWithSelector(
            IERC20Errors.ERC20InsufficientAllowance.selector, address(registry), MINIMUM_STAKE - 1, MINIMUM_STAKE
        );
        _register(ID, PERFORMER, MINIMUM_STAKE, refusal);
    }

    function test_token_BoundsTheStakeAsACoin() public {
        uint256 most = type(uint96).max;
        token.mint(account, most);
        _register(
            ID, PERFORMER, most + 1, abi.encodeWithSelector(IOperatorRegistry.StakeTooLarge.selector, most + 1, most)
        );
        _register(ID, PERFORMER, most, "");
        vm.prank(accountOf(2));
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.StakeTooLarge.selector, most + 1, most));
        registry.addStake(account, 1);
    }

    // --- others ------------------------------------------------------------------------------------------------------

    function test_token_ThatAnswersNothingIsOne() public {
        SilentToken silent = new SilentToken();
        deployStake(address(silent));
        silent.mint(account, 2 ether);
        _register(ID, PERFORMER, 2 ether, "");
        slash(account, 0.5e18);
        _leaveAndWithdraw(ID);
        assertEq(silent.balanceOf(account), 1 ether, "out");
        assertEq(silent.balanceOf(address(judge)), 1 ether, "to the court");
    }

    function test_token_WithAFeeCountsWhatArrived() public {
        _use(new FeeToken());
        bytes memory refusal =
            abi.encodeWithSelector(IOperatorRegistry.StakeTooSmall.selector, 0.99 ether, MINIMUM_STAKE);
        _register(ID, PERFORMER, 1 ether, refusal);
        _register(ID, PERFORMER, 2 ether, "");
        assertEq(registry.operatorOf(account).stake, 1.98 ether, "stake");
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.StakeAdded(account, 0.99 ether, 2.97 ether);
        vm.prank(account);
        registry.addStake(account, 1 ether);
        assertEq(registry.totalStake(), token.balanceOf(address(registry)), "no more than there is");
        _register(2, PERFORMER, 2 ether, "");
        _leaveAndWithdraw(ID);
        assertEq(token.balanceOf(account), 997 ether + 2.9403 ether, "the fee of the way out is its own");
        assertEq(token.balanceOf(address(registry)), 1.98 ether, "the other's stake is all there");
        assertEq(registry.totalStake(), 1.98 ether, "total stake");
    }

    function test_token_ThatRefusesToMoveNothingHoldsNobody() public {
        _use(new NoZeroToken());
        _register(ID, PERFORMER, MINIMUM_STAKE, "");
        slash(account, 1e18);
        assertEq(slash(account, 1e18), 0, "nothing to move");
        _leaveAndWithdraw(ID);
        assertEq(registry.operatorCount(), 0, "gone");
    }

    function test_token_ThatAnswersFalseIsRefused() public {
        _use(new FalseToken());
        bytes memory refusal = abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(token));
        _register(ID, PERFORMER, MINIMUM_STAKE, refusal);
    }

    // --- tokens that call back ---------------------------------------------------------------------------------------

    function _useCalling() private returns (CallingToken calling) {
        calling = new CallingToken();
        _use(calling);
    }

    function _requireRefused(CallingToken calling) private view {
        assertTrue(calling.isDone(), "called");
        assertTrue(calling.wasRefused(), "refused");
        bytes memory refusal = abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
        assertEq(calling.answer(), refusal, "by the guard");
        assertEq(registry.totalStake(), token.balanceOf(address(registry)), "no more than there is");
    }

    function test_token_DepositInsideARegistrationCountsOnce() public {
        CallingToken calling = _useCalling();
        _register(2, PERFORMER, MINIMUM_STAKE, "");
        Depositor depositor = new Depositor(registry, token, accountOf(2));
        token.mint(address(depositor), MINIMUM_STAKE);
        calling.callNext(address(depositor), abi.encodeCall(Depositor.deposit, (MINIMUM_STAKE)));
        _register(ID, PERFORMER, MINIMUM_STAKE, "");
        _requireRefused(calling);
        assertEq(registry.operatorOf(account).stake, MINIMUM_STAKE, "once");
        assertEq(registry.operatorOf(accountOf(2)).stake, MINIMUM_STAKE, "and not there");
    }

    function test_token_DepositInsideADepositCountsOnce() public {
        CallingToken calling = _useCalling();
        _register(ID, PERFORMER, MINIMUM_STAKE, "");
        Depositor depositor = new Depositor(registry, token, account);
        token.mint(address(depositor), MINIMUM_STAKE);
        calling.callNext(address(depositor), abi.encodeCall(Depositor.deposit, (MINIMUM_STAKE)));
        vm.prank(account);
        registry.addStake(account, 5);
        _requireRefused(calling);
        assertEq(registry.operatorOf(account).stake, MINIMUM_STAKE + 5, "once");
    }

    function test_token_RegistrationInsideARegistrationIsRefused() public {
        CallingToken calling = _useCalling();
        // Two under one name would overwrite each other.
        calling.callNext(
            address(registry), abi.encodeCall(registry.register, (registration(2, PERFORMER, MINIMUM_STAKE)))
        );
        _register(ID, PERFORMER, MINIMUM_STAKE, "");
        _requireRefused(calling);
        assertEq(registry.operatorCount(), 1, "one");
    }

    function test_token_WithdrawalInsideAWithdrawalPaysOnce() public {
        CallingToken calling = _useCalling();
        _register(2, PERFORMER, MINIMUM_STAKE, "");
        _register(ID, PERFORMER, MINIMUM_STAKE, "");
        calling.callNext(address(registry), abi.encodeCall(registry.withdraw, (account)));
        _leaveAndWithdraw(ID);
        _requireRefused(calling);
        assertEq(token.balanceOf(account), 1000 ether, "once");
    }

    function test_token_SlashInsideADepositIsRefused() public {
        CallingToken calling = _useCalling();
        _register(ID, PERFORMER, MINIMUM_STAKE, "");
        judge.hold(account);
        calling.callNext(address(judge), abi.encodeCall(judge.slash, (account, 1e18)));
        vm.prank(account);
        registry.addStake(account, 5);
        _requireRefused(calling);
        assertEq(registry.operatorOf(account).stake, MINIMUM_STAKE + 5, "all of it");
    }

    function test_token_ExitInsideADepositLeavesTheDepositWithTheOwner() public {
        // `leave` is not guarded: it moves nothing. The deposit that it interrupts is paid out with the rest.
        CallingToken calling = _useCalling();
        Depositor depositor = new Depositor(registry, token, account);
        IOperatorRegistry.Registration memory made = registrationBy(address(depositor), ID, ATTESTER, MINIMUM_STAKE);
        token.mint(address(depositor), MINIMUM_STAKE);
        depositor.register(made);
        calling.callNext(address(depositor), abi.encodeCall(Depositor.leave, ()));
        vm.prank(accountOf(2));
        registry.addStake(account, MINIMUM_STAKE);
        assertTrue(calling.isDone() && !calling.wasRefused(), "it left");
        assertEq(tables.voteKeyOf(account), "", "without a seat");
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        depositor.withdraw();
        assertEq(token.balanceOf(address(depositor)), 2 * MINIMUM_STAKE, "paid");
        assertEq(registry.totalStake(), 0, "nothing stays");
    }
}

/// Owns an operator, and acts when it is called.
contract Depositor {
    IOperatorRegistry private immutable _registry;
    address private immutable _operator;

    constructor(IOperatorRegistry registry, PlainToken token, address operator) {
        (_registry, _operator) = (registry, operator);
        token.approve(address(registry), type(uint256).max);
    }

    function register(IOperatorRegistry.Registration calldata made) external {
        _registry.register(made);
    }

    function deposit(uint256 amount) external {
        _registry.addStake(_operator, amount);
    }

    function leave() external {
        _registry.leave(_operator);
    }

    function withdraw() external {
        _registry.withdraw(_operator);
    }
}
