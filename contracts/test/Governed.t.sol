// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {Governed} from "../src/Governed.sol";
import {Base} from "./Base.sol";
import {RegistryNetwork} from "./RegistryNetwork.sol";

/// @notice The little that can be changed. Branches: tree/governed.tree.
contract GovernedTest is Base {
    uint64 private constant DELAY = 2 days;
    uint64 private constant MAX_AGE = 30 days;
    uint256 private constant SUBJECT = 7;
    bytes32 private constant NAME = "dial";
    bytes32 private constant PAUSER = "pauser";
    address private constant OWNER = address(0xa);
    address private constant STRANGER = address(0xb);

    Dial private dial;

    function setUp() public {
        vm.warp(1_800_000_000);
        dial = new Dial(OWNER, DELAY);
    }

    function _announce(bytes32 name, uint256 subject, uint256 value) private {
        vm.prank(OWNER);
        dial.announceChange(name, subject, value);
    }

    function _expectOutOfBounds(bytes32 name, uint256 subject, uint256 value) private {
        vm.expectRevert(abi.encodeWithSelector(Governed.ChangeOutOfBounds.selector, name, subject, value));
    }

    // --- constructor -------------------------------------------------------------------------------------------------

    function test_constructor_BoundsTheDelay() public {
        vm.expectRevert(abi.encodeWithSelector(Governed.DelayOutOfBounds.selector, 0));
        new Dial(OWNER, 0);
        vm.expectRevert(abi.encodeWithSelector(Governed.DelayOutOfBounds.selector, 30 days + 1));
        new Dial(OWNER, 30 days + 1);
        assertEq(new Dial(OWNER, 30 days).changeDelay(), 30 days, "the longest");
        assertEq(new Dial(OWNER, 1).changeDelay(), 1, "the shortest");
    }

    function test_constructor_NamesOwnerAndPauser() public {
        assertEq(dial.owner(), OWNER, "owner");
        assertEq(dial.pauser(), OWNER, "pauser");
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableInvalidOwner.selector, address(0)));
        new Dial(address(0), DELAY);
    }

    function test_owner_HandsOverInTwoSteps() public {
        vm.prank(OWNER);
        dial.transferOwnership(STRANGER);
        assertEq(dial.owner(), OWNER, "not yet");
        vm.prank(STRANGER);
        dial.acceptOwnership();
        assertEq(dial.owner(), STRANGER, "now");
    }

    // --- announceChange, withdrawChange ------------------------------------------------------------------------------

    function test_announceChange_IsForTheOwnerAlone() public {
        bytes memory refusal = abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, STRANGER);
        vm.startPrank(STRANGER);
        vm.expectRevert(refusal);
        dial.announceChange(NAME, SUBJECT, 1);
        vm.expectRevert(refusal);
        dial.withdrawChange(NAME, SUBJECT);
    }

    function test_announceChange_ShowsWhatComes() public {
        uint64 effectiveAt = uint64(block.timestamp) + DELAY;
        vm.expectEmit(address(dial));
        emit Governed.ChangeAnnounced(NAME, SUBJECT, 3, effectiveAt);
        _announce(NAME, SUBJECT, 3);
        Governed.Change memory change = dial.announcedChange(NAME, SUBJECT);
        assertEq(change.value, 3, "value");
        assertEq(change.effectiveAt, effectiveAt, "effective at");
        assertEq(dial.valueOf(SUBJECT), 0, "nothing changed yet");
        assertEq(dial.announcedChange(NAME, SUBJECT + 1).effectiveAt, 0, "nothing comes for others");
    }

    function test_announceChange_RefusesWhatMayNotBe() public {
        _expectOutOfBounds(NAME, SUBJECT, 11);
        _announce(NAME, SUBJECT, 11);
        vm.expectRevert(abi.encodeWithSelector(Governed.UnknownChange.selector, bytes32("owner")));
        _announce("owner", 0, 1);
        _expectOutOfBounds(PAUSER, 1, 1);
        _announce(PAUSER, 1, 1);
        _expectOutOfBounds(PAUSER, 0, uint256(type(uint160).max) + 1);
        _announce(PAUSER, 0, uint256(type(uint160).max) + 1);
    }

    function test_announceChange_ReplacesAnEarlierOne() public {
        _announce(NAME, SUBJECT, 3);
        vm.warp(block.timestamp + DELAY - 1);
        _announce(NAME, SUBJECT, 4);
        vm.warp(block.timestamp + 1);
        uint64 effectiveAt = uint64(block.timestamp) + DELAY - 1;
        vm.expectRevert(abi.encodeWithSelector(Governed.ChangeNotDue.selector, NAME, effectiveAt));
        dial.makeChange(NAME, SUBJECT);
        vm.warp(effectiveAt);
        dial.makeChange(NAME, SUBJECT);
        assertEq(dial.valueOf(SUBJECT), 4, "the later one, after its own delay");
    }

    function test_withdrawChange_TakesItBack() public {
        bytes memory nothing = abi.encodeWithSelector(Governed.NoChange.selector, NAME, SUBJECT);
        vm.prank(OWNER);
        vm.expectRevert(nothing);
        dial.withdrawChange(NAME, SUBJECT);
        _announce(NAME, SUBJECT, 3);
        vm.expectEmit(address(dial));
        emit Governed.ChangeWithdrawn(NAME, SUBJECT);
        vm.prank(OWNER);
        dial.withdrawChange(NAME, SUBJECT);
        vm.warp(block.timestamp + DELAY);
        vm.expectRevert(nothing);
        dial.makeChange(NAME, SUBJECT);
    }

    // --- makeChange --------------------------------------------------------------------------------------------------

    function test_makeChange_WaitsOutTheDelayThenAnyoneMakesItOnce() public {
        bytes memory nothing = abi.encodeWithSelector(Governed.NoChange.selector, NAME, SUBJECT);
        vm.expectRevert(nothing);
        dial.makeChange(NAME, SUBJECT);
        _announce(NAME, SUBJECT, 3);
        uint64 effectiveAt = uint64(block.timestamp) + DELAY;
        vm.warp(effectiveAt - 1);
        vm.expectRevert(abi.encodeWithSelector(Governed.ChangeNotDue.selector, NAME, effectiveAt));
        dial.makeChange(NAME, SUBJECT);
        vm.warp(effectiveAt);
        vm.expectEmit(address(dial));
        emit Governed.ChangeMade(NAME, SUBJECT, 3);
        vm.prank(STRANGER);
        dial.makeChange(NAME, SUBJECT);
        assertEq(dial.valueOf(SUBJECT), 3, "changed");
        vm.expectRevert(nothing);
        dial.makeChange(NAME, SUBJECT);
    }

    function test_makeChange_ForgetsWhatIsTooOld() public {
        _announce(NAME, SUBJECT, 3);
        uint64 effectiveAt = uint64(block.timestamp) + DELAY;
        vm.warp(effectiveAt + MAX_AGE + 1);
        vm.expectRevert(abi.encodeWithSelector(Governed.ChangeTooOld.selector, NAME, effectiveAt));
        dial.makeChange(NAME, SUBJECT);
        vm.warp(effectiveAt + MAX_AGE);
        dial.makeChange(NAME, SUBJECT);
        assertEq(dial.valueOf(SUBJECT), 3, "in its last second");
    }

    function test_makeChange_AsksTheBoundsAgain() public {
        _announce(NAME, SUBJECT, 9);
        dial.lowerLimit(8);
        vm.warp(block.timestamp + DELAY);
        _expectOutOfBounds(NAME, SUBJECT, 9);
        dial.makeChange(NAME, SUBJECT);
    }

    function test_makeChange_NamesAnotherPauser() public {
        _announce(PAUSER, 0, uint160(STRANGER));
        vm.warp(block.timestamp + DELAY);
        vm.expectEmit(address(dial));
        emit Governed.ChangeMade(PAUSER, 0, uint160(STRANGER));
        dial.makeChange(PAUSER, 0);
        assertEq(dial.pauser(), STRANGER, "pauser");
        assertEq(dial.valueOf(0), 0, "nothing else");
        vm.prank(OWNER);
        vm.expectRevert(abi.encodeWithSelector(Governed.NotPauser.selector, OWNER));
        dial.pause(true);
        vm.prank(STRANGER);
        dial.pause(true);
    }

    // --- pause -------------------------------------------------------------------------------------------------------

    function test_pause_IsForThePauserAlone() public {
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(Governed.NotPauser.selector, STRANGER));
        dial.pause(true);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(Governed.NotPauser.selector, STRANGER));
        dial.pause(false);
    }

    function test_pause_EndsByItselfAfterAWeek() public {
        dial.work();
        uint64 until = uint64(block.timestamp) + 7 days;
        vm.expectEmit(address(dial));
        emit Governed.PausedUntil(until);
        vm.prank(OWNER);
        dial.pause(true);
        assertEq(dial.pausedUntil(), until, "until");
        vm.warp(until - 1);
        vm.expectRevert(abi.encodeWithSelector(Governed.Paused.selector, until));
        dial.work();
        vm.warp(until);
        dial.work();
    }

    function test_pause_CanBeEnded() public {
        vm.startPrank(OWNER);
        dial.pause(true);
        vm.expectEmit(address(dial));
        emit Governed.PausedUntil(0);
        dial.pause(false);
        dial.work();
    }
}

/// @notice What of it the registry has.
contract RegistryGovernedTest is RegistryNetwork {
    bytes32 private constant NAME = "allowlistSigner";
    address private constant SIGNER = address(0xc);
    Governed private governed;

    function setUp() public override {
        super.setUp();
        governed = Governed(address(registry));
    }

    function test_allowlistSigner_ChangesAfterTheDelay() public {
        vm.prank(owner);
        governed.announceChange(NAME, 0, uint160(SIGNER));
        assertEq(registry.allowlistSigner(), address(0), "not yet");
        vm.warp(block.timestamp + CHANGE_DELAY);
        governed.makeChange(NAME, 0);
        assertEq(registry.allowlistSigner(), SIGNER, "now");
    }

    function test_allowlistSigner_IsOneAddress() public {
        uint256 tooLarge = uint256(type(uint160).max) + 1;
        vm.startPrank(owner);
        vm.expectRevert(abi.encodeWithSelector(Governed.ChangeOutOfBounds.selector, NAME, 0, tooLarge));
        governed.announceChange(NAME, 0, tooLarge);
        vm.expectRevert(abi.encodeWithSelector(Governed.ChangeOutOfBounds.selector, NAME, 1, 1));
        governed.announceChange(NAME, 1, 1);
    }

    function test_nothingElse_CanBeChanged() public {
        bytes32[5] memory names = [bytes32("court"), "minimumStake", "unbondingSeconds", "powerUnit", "stakeToken"];
        vm.startPrank(owner);
        for (uint256 i = 0; i < names.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(Governed.UnknownChange.selector, names[i]));
            governed.announceChange(names[i], 0, 1);
        }
    }

    function test_pause_HoldsNoExit() public {
        address account = join(1, PERFORMER, MINIMUM_STAKE);
        vm.prank(owner);
        governed.pause(true);
        leaveAs(account, account);
        slash(account, 0.1e18);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.prank(owner);
        governed.pause(true);
        withdrawAs(account, account);
        assertEq(account.balance, MINIMUM_STAKE - MINIMUM_STAKE / 10, "paid");
    }
}

/// Has one setting, from 0 to a limit, for each subject.
contract Dial is Governed {
    mapping(uint256 subject => uint256) public valueOf;
    uint256 private _limit = 10;

    constructor(address owner_, uint64 changeDelay_) Governed(owner_, changeDelay_) {}

    function work() external view {
        _requireNotPaused();
    }

    function lowerLimit(uint256 limit) external {
        _limit = limit;
    }

    function _isAllowed(bytes32 name, uint256, uint256 value) internal view override returns (bool) {
        if (name != "dial") revert UnknownChange(name);
        return value <= _limit;
    }

    function _change(bytes32, uint256 subject, uint256 value) internal override {
        valueOf[subject] = value;
    }
}
