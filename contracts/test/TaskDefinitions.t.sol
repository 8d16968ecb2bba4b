// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

import {Governed} from "../src/Governed.sol";
import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {Network} from "./Network.sol";

/// @notice Task definitions, their changes and pauses. Branches: tree/createTaskDefinition.tree,
/// tree/changeTaskDefinition.tree, tree/pauseTaskDefinition.tree.
contract TaskDefinitionsTest is Network {
    uint256 private constant MAX_DEADLINE = 30 days;
    uint256 private constant MAX_TEXT = 128;
    uint256 private constant MAX_DEFINITIONS = 65_536;
    address private immutable nobody = address(uint160(uint256(keccak256("nobody"))));

    // --- creating ----------------------------------------------------------------------------------------------------

    function _create(IAttestationCenter.TaskTerms memory with) private returns (uint16) {
        vm.prank(owner);
        return center.createTaskDefinition("stories", "text", keccak256("other"), "bafy", with);
    }

    function _expectTerms(string memory name, uint256 value) private {
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.InvalidTerms.selector, name, value));
    }

    function _assertDefinition(uint16 id, IAttestationCenter.TaskTerms memory with) private view {
        IAttestationCenter.TaskDefinition memory definition = center.taskDefinition(id);
        assertEq(bytes(definition.name), "stories", "name");
        assertEq(bytes(definition.method), "text", "method");
        assertEq(definition.modelHash, keccak256("other"), "model hash");
        assertEq(bytes(definition.cardCid), "bafy", "card");
        assertTrue(!definition.isPaused, "not paused");
        assertEq(abi.encode(definition.terms), abi.encode(with), "terms");
    }

    function test_createTaskDefinition_CountsFromZeroAndKeepsAll() public {
        assertEq(center.taskDefinitionCount(), 1, "one");
        assertEq(bytes(center.taskDefinition(0).name), "digits", "0 is a definition like any other");
        vm.expectEmit(address(center));
        emit IAttestationCenter.TaskDefinitionCreated(1, "stories", "text", keccak256("other"), "bafy", terms());
        assertEq(_create(terms()), 1, "id");
        assertEq(center.taskDefinitionCount(), 2, "two");
        _assertDefinition(1, terms());
    }

    /// @dev Any terms within the bounds, each field told from the others.
    function testFuzz_createTaskDefinition_KeepsAnyTerms(IAttestationCenter.TaskTerms memory with) public {
        with.attesterSet = 0;
        with.maximumDeadline = uint32(bound(with.maximumDeadline, 1, MAX_DEADLINE));
        with.disputeWindow = uint32(bound(with.disputeWindow, 1, LONGEST_DISPUTE));
        with.hook = with.hook.code.length == 0 ? address(0) : with.hook;
        with.feeCalculator = with.waitsForAll ? address(this) : address(0);
        if (with.settlesSingly) with.hook = address(tables);
        _assertDefinition(_create(with), with);
    }

    function test_createTaskDefinition_TakesTheBoundsThemselves() public {
        IAttestationCenter.TaskTerms memory with = terms();
        (with.maximumDeadline, with.disputeWindow) = (1, 1);
        _assertDefinition(_create(with), with);
        (with.maximumDeadline, with.disputeWindow) = (uint32(MAX_DEADLINE), uint32(LONGEST_DISPUTE));
        _assertDefinition(_create(with), with);
    }

    function test_createTaskDefinition_IsForTheOwner() public {
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(this)));
        center.createTaskDefinition("", "", 0, "", terms());
    }

    function test_createTaskDefinition_WaitsForTheCourt() public {
        bytes memory arguments = abi.encode(tables, registry, address(this), CHANGE_DELAY);
        IAttestationCenter other = IAttestationCenter(deploy("AttestationCenter.sol:AttestationCenter", arguments));
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.CourtNotSet.selector));
        other.createTaskDefinition("", "", 0, "", terms());
    }

    function test_createTaskDefinition_BoundsItsTexts() public {
        string memory longest = string(new bytes(MAX_TEXT));
        string memory tooLong = string(new bytes(MAX_TEXT + 1));
        vm.startPrank(owner);
        center.createTaskDefinition(longest, longest, 0, longest, terms());
        assertEq(bytes(center.taskDefinition(1).name).length, MAX_TEXT, "kept");
        _expectTerms("name", MAX_TEXT + 1);
        center.createTaskDefinition(tooLong, "", 0, "", terms());
        _expectTerms("method", MAX_TEXT + 1);
        center.createTaskDefinition("", tooLong, 0, "", terms());
        _expectTerms("cardCid", MAX_TEXT + 1);
        center.createTaskDefinition("", "", 0, tooLong, terms());
        vm.stopPrank();
    }

    function test_createTaskDefinition_BoundsItsTimes() public {
        IAttestationCenter.TaskTerms memory with = terms();
        with.maximumDeadline = 0;
        _expectTerms("maximumDeadline", 0);
        _create(with);
        with.maximumDeadline = uint32(MAX_DEADLINE) + 1;
        _expectTerms("maximumDeadline", MAX_DEADLINE + 1);
        _create(with);

        with = terms();
        with.disputeWindow = 0;
        _expectTerms("disputeWindow", 0);
        _create(with);
        with.disputeWindow = uint32(LONGEST_DISPUTE) + 1;
        _expectTerms("disputeWindow", LONGEST_DISPUTE + 1);
        _create(with);
    }

    function test_createTaskDefinition_WantsCodeWhereItCalls() public {
        IAttestationCenter.TaskTerms memory with = terms();
        with.hook = nobody;
        _expectTerms("hook", uint160(nobody));
        _create(with);
        with = terms();
        with.feeCalculator = nobody;
        _expectTerms("feeCalculator", uint160(nobody));
        _create(with);
    }

    /// @dev Whoever made the set that a definition waits for would be its whole quorum.
    function test_createTaskDefinition_WantsASetThatThereIs() public {
        IAttestationCenter.TaskTerms memory with = terms();
        with.attesterSet = 1;
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.UnknownAttesterSet.selector, 1));
        _create(with);
        IEpochTables.AttesterSet memory rules;
        assertEq(tables.createAttesterSet(rules), 1, "the first set");
        _assertDefinition(_create(with), with);
    }

    function test_createTaskDefinition_StopsWhereIdsEnd() public {
        _setCount(MAX_DEFINITIONS - 1);
        assertEq(_create(terms()), MAX_DEFINITIONS - 1, "the last id");
        _assertDefinition(type(uint16).max, terms());
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.TooManyTaskDefinitions.selector, MAX_DEFINITIONS));
        _create(terms());
    }

    /// @dev 65,536 definitions would take longer than a test has: the count is found in storage and set.
    function _setCount(uint256 count) private {
        for (uint256 slot = 0; center.taskDefinitionCount() != count; ++slot) {
            bytes32 before = vm.load(address(center), bytes32(slot));
            vm.store(address(center), bytes32(slot), bytes32(count));
            if (center.taskDefinitionCount() != count) vm.store(address(center), bytes32(slot), before);
        }
    }

    function test_taskDefinition_RevertsForAnUnknownId() public {
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.UnknownTaskDefinition.selector, 1));
        center.taskDefinition(1);
    }

    function test_ownership_MovesInTwoSteps() public {
        Ownable2Step ownable = Ownable2Step(address(center));
        vm.prank(owner);
        ownable.transferOwnership(nobody);
        assertEq(ownable.owner(), owner, "not yet");
        vm.prank(nobody);
        ownable.acceptOwnership();
        assertEq(ownable.owner(), nobody, "now");
    }

    // --- changing ----------------------------------------------------------------------------------------------------

    function _governed() private view returns (Governed) {
        return Governed(address(center));
    }

    function _announce(bytes32 name, uint256 subject, uint256 value) private {
        vm.prank(owner);
        _governed().announceChange(name, subject, value);
    }

    function _change(bytes32 name, uint256 subject, uint256 value) private {
        _announce(name, subject, value);
        vm.warp(block.timestamp + CHANGE_DELAY);
        _governed().makeChange(name, subject);
    }

    function _expectOutOfBounds(bytes32 name, uint256 subject, uint256 value) private {
        vm.expectRevert(abi.encodeWithSelector(Governed.ChangeOutOfBounds.selector, name, subject, value));
    }

    function testFuzz_makeChange_ChangesFeesOfOneDefinition(uint80 performer, uint80 attesters, uint80 aggregator)
        public
    {
        uint16 id = _create(terms());
        uint256 packed = uint256(performer) << 160 | uint256(attesters) << 80 | aggregator;
        _announce("fees", id, packed);
        _assertDefinition(id, terms());
        vm.warp(block.timestamp + CHANGE_DELAY);
        _governed().makeChange("fees", id);

        IAttestationCenter.TaskTerms memory changed = terms();
        changed.fees = IAttestationCenter.Fees(performer, attesters, aggregator);
        _assertDefinition(id, changed);
        assertEq(abi.encode(center.taskDefinition(0).terms), abi.encode(terms()), "the other definition");
    }

    function test_makeChange_SetsHookAndFeeCalculatorAndTakesThemAway() public {
        uint16 id = _create(terms());
        IAttestationCenter.TaskTerms memory changed = terms();
        _change("hook", id, uint160(address(this)));
        changed.hook = address(this);
        _assertDefinition(id, changed);
        _change("feeCalculator", id, uint160(address(tables)));
        changed.feeCalculator = address(tables);
        _assertDefinition(id, changed);
        _change("hook", id, 0);
        changed.hook = address(0);
        _assertDefinition(id, changed);
        _change("feeCalculator", id, 0);
        changed.feeCalculator = address(0);
        _assertDefinition(id, changed);
        assertEq(abi.encode(center.taskDefinition(0).terms), abi.encode(terms()), "the other definition");
    }

    function test_announceChange_KnowsItsBounds() public {
        vm.startPrank(owner);
        _expectOutOfBounds("fees", 0, 1 << 240);
        _governed().announceChange("fees", 0, 1 << 240);
        _expectOutOfBounds("hook", 0, uint160(nobody));
        _governed().announceChange("hook", 0, uint160(nobody));
        _expectOutOfBounds("feeCalculator", 0, uint160(nobody));
        _governed().announceChange("feeCalculator", 0, uint160(nobody));
        uint256 tooWide = 1 << 160 | uint160(address(this));
        _expectOutOfBounds("hook", 0, tooWide);
        _governed().announceChange("hook", 0, tooWide);
        vm.stopPrank();
    }

    function test_announceChange_KnowsDefinitionsAndNames() public {
        vm.startPrank(owner);
        _expectOutOfBounds("fees", 1, 0);
        _governed().announceChange("fees", 1, 0);
        _expectOutOfBounds("hook", 1, 0);
        _governed().announceChange("hook", 1, 0);
        // An id that is one of a definition when it is cut to 16 bits.
        _expectOutOfBounds("fees", 1 << 16, 0);
        _governed().announceChange("fees", 1 << 16, 0);
        vm.expectRevert(abi.encodeWithSelector(Governed.UnknownChange.selector, bytes32("disputeWindow")));
        _governed().announceChange("disputeWindow", 0, 1);
        vm.stopPrank();
    }

    function test_makeChange_LooksAgain() public {
        address hook = address(new Empty());
        _announce("hook", 0, uint160(hook));
        vm.warp(block.timestamp + CHANGE_DELAY);
        vm.etch(hook, "");
        _expectOutOfBounds("hook", 0, uint160(hook));
        _governed().makeChange("hook", 0);
    }

    function test_makeChange_WaitsAndIsTheOwnersToAnnounce() public {
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(this)));
        _governed().announceChange("fees", 0, 1);
        _announce("fees", 0, 1);
        uint64 effectiveAt = uint64(block.timestamp) + CHANGE_DELAY;
        vm.warp(effectiveAt - 1);
        vm.expectRevert(abi.encodeWithSelector(Governed.ChangeNotDue.selector, bytes32("fees"), effectiveAt));
        _governed().makeChange("fees", 0);
    }

    // --- pausing -----------------------------------------------------------------------------------------------------

    function test_pauseTaskDefinition_LastsAWeekOrUntilItIsEnded() public {
        uint16 id = _create(terms());
        vm.expectEmit(address(center));
        emit IAttestationCenter.TaskDefinitionPaused(id, true);
        vm.prank(owner); // the first pauser
        center.pauseTaskDefinition(id, true);
        assertTrue(center.taskDefinition(id).isPaused, "paused");
        assertTrue(!center.taskDefinition(0).isPaused, "the other is not");
        vm.warp(block.timestamp + 7 days - 1);
        assertTrue(center.taskDefinition(id).isPaused, "still");
        vm.warp(block.timestamp + 1);
        assertTrue(!center.taskDefinition(id).isPaused, "over by itself");

        vm.startPrank(owner);
        center.pauseTaskDefinition(id, true);
        vm.expectEmit(address(center));
        emit IAttestationCenter.TaskDefinitionPaused(id, false);
        center.pauseTaskDefinition(id, false);
        vm.stopPrank();
        assertTrue(!center.taskDefinition(id).isPaused, "ended");
    }

    function test_pause_PausesEveryDefinition() public {
        uint16 id = _create(terms());
        vm.prank(owner);
        _governed().pause(true);
        assertTrue(center.taskDefinition(0).isPaused && center.taskDefinition(id).isPaused, "both");
        vm.warp(block.timestamp + 7 days);
        assertTrue(!center.taskDefinition(0).isPaused && !center.taskDefinition(id).isPaused, "none");
    }

    function test_pauseTaskDefinition_IsForThePauser() public {
        vm.expectRevert(abi.encodeWithSelector(Governed.NotPauser.selector, address(this)));
        center.pauseTaskDefinition(0, true);
        _change("pauser", 0, uint160(nobody));
        vm.expectRevert(abi.encodeWithSelector(Governed.NotPauser.selector, owner));
        vm.prank(owner);
        center.pauseTaskDefinition(0, true);
        vm.prank(nobody);
        center.pauseTaskDefinition(0, true);
        assertTrue(center.taskDefinition(0).isPaused, "paused");
    }

    function test_pauseTaskDefinition_RevertsForAnUnknownId() public {
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.UnknownTaskDefinition.selector, 1));
        vm.prank(owner);
        center.pauseTaskDefinition(1, true);
    }
}

/// @notice Code at an address.
contract Empty {}
