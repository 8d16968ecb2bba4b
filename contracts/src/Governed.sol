// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

/// @title The little that can be changed, announced before it is
/// @notice An owner, two-step, may announce a change; after `changeDelay` anyone makes it, within MAX_CHANGE_AGE. What
/// can change, and within which bounds, is the deriving contract's to say. A pauser may pause new work, at most
/// MAX_PAUSE at a time; nothing that returns or pays money out, and no dispute, may ask `_requireNotPaused`.
abstract contract Governed is Ownable2Step {
    struct Change {
        uint256 value;
        uint64 effectiveAt;
    }

    event ChangeAnnounced(bytes32 indexed name, uint256 indexed subject, uint256 value, uint64 effectiveAt);
    event ChangeWithdrawn(bytes32 indexed name, uint256 indexed subject);
    event ChangeMade(bytes32 indexed name, uint256 indexed subject, uint256 value);
    event PausedUntil(uint64 until);

    error UnknownChange(bytes32 name);
    error ChangeOutOfBounds(bytes32 name, uint256 subject, uint256 value);
    error NoChange(bytes32 name, uint256 subject);
    error ChangeNotDue(bytes32 name, uint64 effectiveAt);
    error ChangeTooOld(bytes32 name, uint64 effectiveAt);
    error DelayOutOfBounds(uint256 delay);
    error NotPauser(address caller);
    error Paused(uint64 until);

    bytes32 internal constant PAUSER = "pauser";
    uint256 private constant MAX_DELAY = 30 days;
    /// A change that was forgotten must not surprise anybody years later.
    uint256 private constant MAX_CHANGE_AGE = 30 days;
    uint256 internal constant MAX_PAUSE = 7 days;

    uint64 public immutable changeDelay;
    address public pauser;
    uint64 public pausedUntil;
    mapping(bytes32 name => mapping(uint256 subject => Change)) private _changes;

    constructor(address owner_, uint64 changeDelay_) Ownable(owner_) {
        if (changeDelay_ == 0 || changeDelay_ > MAX_DELAY) revert DelayOutOfBounds(changeDelay_);
        changeDelay = changeDelay_;
        pauser = owner_;
    }

    /// @notice Announces that `name` of `subject` (a task definition, say; else 0) becomes `value`. Replaces an earlier
    /// announcement. Owner only.
    function announceChange(bytes32 name, uint256 subject, uint256 value) external onlyOwner {
        _requireAllowed(name, subject, value);
        uint64 effectiveAt = uint64(block.timestamp) + changeDelay;
        _changes[name][subject] = Change(value, effectiveAt);
        emit ChangeAnnounced(name, subject, value, effectiveAt);
    }

    function withdrawChange(bytes32 name, uint256 subject) external onlyOwner {
        if (_changes[name][subject].effectiveAt == 0) revert NoChange(name, subject);
        delete _changes[name][subject];
        emit ChangeWithdrawn(name, subject);
    }

    /// @notice Makes an announced change that is due. Anyone may.
    function makeChange(bytes32 name, uint256 subject) external {
        Change memory change = _changes[name][subject];
        if (change.effectiveAt == 0) revert NoChange(name, subject);
        if (block.timestamp < change.effectiveAt) revert ChangeNotDue(name, change.effectiveAt);
        if (block.timestamp > change.effectiveAt + MAX_CHANGE_AGE) revert ChangeTooOld(name, change.effectiveAt);
        _requireAllowed(name, subject, change.value);
        delete _changes[name][subject];
        if (name == PAUSER) pauser = address(uint160(change.value));
        else _change(name, subject, change.value);
        emit ChangeMade(name, subject, change.value);
    }

    function announcedChange(bytes32 name, uint256 subject) external view returns (Change memory) {
        return _changes[name][subject];
    }

    /// @notice Pauses new work, or ends a pause. Pauser only.
    function pause(bool isPaused) external {
        if (msg.sender != pauser) revert NotPauser(msg.sender);
        pausedUntil = isPaused ? uint64(block.timestamp + MAX_PAUSE) : 0;
        emit PausedUntil(pausedUntil);
    }

    function _requireNotPaused() internal view {
        if (block.timestamp < pausedUntil) revert Paused(pausedUntil);
    }

    function _requireAllowed(bytes32 name, uint256 subject, uint256 value) private view {
        bool isAllowed = name == PAUSER ? subject == 0 && value <= type(uint160).max : _isAllowed(name, subject, value);
        if (!isAllowed) revert ChangeOutOfBounds(name, subject, value);
    }

    /// @dev Reverts with UnknownChange for a name that the contract does not have.
    function _isAllowed(bytes32 name, uint256 subject, uint256 value) internal view virtual returns (bool);

    /// @dev Makes a change that `_isAllowed`.
    function _change(bytes32 name, uint256 subject, uint256 value) internal virtual;
}
