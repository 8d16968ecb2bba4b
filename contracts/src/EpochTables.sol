// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {BLSQuorumVerifier} from "./BLSQuorumVerifier.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {OperatorTable} from "./libraries/OperatorTable.sol";

/// @title Epochs and the two tables that are valid
/// @notice `rollEpoch` is open to everyone but bound to time alone: once at any moment to begin with, then not within
/// `epochSeconds` of the last roll, whatever has changed. If a change of stake allowed a roll, one wei twice would push
/// every certificate that is on its way out of the two valid tables. So a table stays valid for at least `epochSeconds`
/// after it stopped being the current one. Whoever deploys should roll before publishing the first task definition: the
/// very first table is whoever had registered by then.
abstract contract EpochTables is IOperatorRegistry, BLSQuorumVerifier {
    /// A mistyped duration must not stop epochs.
    uint256 private constant MAX_EPOCH_SECONDS = 30 days;

    struct Head {
        address table;
        uint32 epoch;
        uint64 rolledAt;
    }

    /// @inheritdoc IOperatorRegistry
    uint64 public immutable epochSeconds;

    Head private _head;
    address private _previousTable;
    /// An address registers once and its key never changes, so the members in order say all that their pages hold.
    mapping(bytes32 membersHash => address memberPage) private _memberPages;

    constructor(uint64 epochSeconds_) {
        if (epochSeconds_ == 0 || epochSeconds_ > MAX_EPOCH_SECONDS) {
            revert InvalidSetting("epochSeconds", epochSeconds_);
        }
        epochSeconds = epochSeconds_;
    }

    /// @dev Who votes from the next epoch on, and with what power; never more than MAX_ATTESTERS.
    function _activeAttesters() internal view virtual returns (address[] memory members, uint64[] memory powers);

    /// @dev The page with the operator's negated vote key; the same for ever.
    function _keyPageOf(address operator) internal view virtual returns (address);

    /// @inheritdoc IOperatorRegistry
    function rollEpoch() external returns (uint32 epoch) {
        uint64 due = rollableAt();
        if (block.timestamp < due) revert EpochNotOver(due);
        (address[] memory members, uint64[] memory powers) = _activeAttesters();
        (address table, uint64 total) = OperatorTable.write(_memberPageOf(members), powers);

        epoch = _head.epoch + 1;
        _previousTable = _head.table;
        _head = Head({table: table, epoch: epoch, rolledAt: uint64(block.timestamp)});
        emit EpochRolled(epoch, members.length, total, table);
    }

    /// @inheritdoc IOperatorRegistry
    function rollableAt() public view returns (uint64) {
        return _head.epoch == 0 ? 0 : _head.rolledAt + epochSeconds;
    }

    /// @inheritdoc IOperatorRegistry
    function currentEpoch() public view returns (uint32) {
        return _head.epoch;
    }

    /// @inheritdoc IOperatorRegistry
    function tableOf(uint32 epoch)
        external
        view
        returns (address[] memory members, bytes[] memory voteKeys, uint64[] memory powers)
    {
        return OperatorTable.entries(_tableAt(epoch));
    }

    /// @inheritdoc BLSQuorumVerifier
    function _tableAt(uint32 epoch) internal view override returns (address) {
        Head memory head = _head;
        if (epoch == head.epoch && epoch != 0) return head.table;
        if (epoch == 0 || uint256(epoch) + 1 != head.epoch) revert UnknownEpoch(epoch, head.epoch);
        return _previousTable;
    }

    /// @dev The pages of keys cost 42k gas a member; they are written once for each set of members.
    function _memberPageOf(address[] memory members) private returns (address memberPage) {
        bytes32 membersHash = keccak256(abi.encodePacked(members));
        memberPage = _memberPages[membersHash];
        if (memberPage != address(0)) return memberPage;
        address[] memory keys = new address[](members.length);
        for (uint256 i = 0; i < members.length; ++i) {
            keys[i] = _keyPageOf(members[i]);
        }
        memberPage = OperatorTable.writeMembers(members, keys);
        _memberPages[membersHash] = memberPage;
    }
}
