// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "./Governed.sol";
import {SlashQueue} from "./SlashQueue.sol";
import {ISlashingCourt} from "./interfaces/ISlashingCourt.sol";
import {Digests} from "./libraries/Digests.sol";

/// @title The guardian's vetoes
/// @notice A veto is for evidence that is right by the letter and wrong all the same: a bug, a leaked test key. It is
/// rationed, so that a captured guardian saves few; it waits, so that the operators can overrule it; and it can only
/// cancel.
abstract contract Vetoes is SlashQueue, Governed {
    /// How many vetoes the guardian has in any VETO_PERIOD.
    uint256 public constant MAX_VETOES = 3;
    uint64 public constant VETO_PERIOD = 30 days;
    bytes32 private constant GUARDIAN = "guardian";

    /// @inheritdoc ISlashingCourt
    uint64 public immutable vetoDelay;
    /// @inheritdoc ISlashingCourt
    address public guardian;

    /// When the last vetoes were announced: a ring, whose oldest is at `_oldest`.
    uint64[MAX_VETOES] private _announcedAt;
    uint256 private _oldest;
    mapping(bytes32 slashId => bool) private _isVetoed;

    constructor(uint64 vetoDelay_, address owner_, uint64 changeDelay_) Governed(owner_, changeDelay_) {
        // Longer than any dispute, a veto would hold a stake longer than the slash itself may.
        if (vetoDelay_ == 0 || vetoDelay_ > longestDispute) revert InvalidSetting("vetoDelay", vetoDelay_);
        vetoDelay = vetoDelay_;
        guardian = owner_;
    }

    /// @inheritdoc ISlashingCourt
    function announceVeto(bytes32 slashId) external {
        if (msg.sender != guardian) revert OnlyGuardian(msg.sender);
        Slash storage slash = _waiting(slashId);
        if (_isVetoed[slashId]) revert AlreadyVetoed(slashId);
        if (block.timestamp >= slash.executableAt) revert TooLateForVeto(slashId, slash.executableAt);
        _spendVeto();
        _isVetoed[slashId] = true;
        slash.vetoDueAt = uint64(block.timestamp) + vetoDelay;
        emit VetoAnnounced(slashId, slash.vetoDueAt);
    }

    /// @inheritdoc ISlashingCourt
    function overruleVeto(bytes32 slashId, uint32 epoch, bytes calldata signature, bytes calldata missing) external {
        Slash storage slash = _vetoed(slashId);
        verifier.verifyQuorum(overruleDigest(slashId), epoch, 0, true, signature, missing);
        slash.vetoDueAt = 0;
        emit VetoOverruled(slashId);
    }

    /// @inheritdoc ISlashingCourt
    function executeVeto(bytes32 slashId) external {
        Slash storage slash = _vetoed(slashId);
        if (block.timestamp < slash.vetoDueAt) revert VetoNotDue(slashId, slash.vetoDueAt);
        _cancel(slashId, slash);
    }

    /// @inheritdoc ISlashingCourt
    function overruleDigest(bytes32 slashId) public view returns (bytes32) {
        return _hashTypedDataV4(Digests.hashOverruleVeto(slashId));
    }

    function _vetoed(bytes32 slashId) private view returns (Slash storage slash) {
        slash = _waiting(slashId);
        if (slash.vetoDueAt == 0) revert NoVeto(slashId);
    }

    /// @dev Another guardian has no other vetoes.
    function _spendVeto() private {
        uint64 announcedAt = _announcedAt[_oldest];
        if (announcedAt != 0 && block.timestamp < announcedAt + VETO_PERIOD) {
            revert VetoesUsedUp(announcedAt + VETO_PERIOD);
        }
        _announcedAt[_oldest] = uint64(block.timestamp);
        _oldest = (_oldest + 1) % MAX_VETOES;
    }

    /// @dev Guardian zero: nobody vetoes.
    function _isAllowed(bytes32 name, uint256 subject, uint256 value) internal pure override returns (bool) {
        if (name != GUARDIAN) revert UnknownChange(name);
        return subject == 0 && value <= type(uint160).max;
    }

    function _change(bytes32, uint256, uint256 value) internal override {
        guardian = address(uint160(value));
    }
}
