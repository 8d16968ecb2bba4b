// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {BLSQuorumVerifier} from "./BLSQuorumVerifier.sol";
import {IEpochTables} from "./interfaces/IEpochTables.sol";
import {AttesterSets} from "./libraries/AttesterSets.sol";
import {CodePage} from "./libraries/CodePage.sol";
import {Digests} from "./libraries/Digests.sol";
import {OperatorTable} from "./libraries/OperatorTable.sol";
import {TableDraft} from "./libraries/TableDraft.sol";
import {VoteKey} from "./libraries/VoteKey.sol";

/// @title Seats, epochs and their tables
/// @notice A table, once written, stays for ever; what ends is only the time in which its votes settle, and that time
/// is counted from when it was superseded, so no number of rolls shortens it. Whoever deploys should roll before
/// publishing the first task definition: the very first table is whoever sat by then.
contract EpochTables is IEpochTables, BLSQuorumVerifier, EIP712 {
    /// A mistyped duration must not stop epochs, nor keep leavers waiting for ever.
    uint256 private constant MAX_SECONDS = 30 days;
    uint256 private constant POWERS_PER_WORD = 8;

    /// The one slot that a verification at the current epoch reads.
    struct Head {
        address table;
        uint32 epoch;
        uint40 rolledAt;
        bool isDue;
    }

    struct Past {
        address table;
        uint64 supersededAt;
    }

    /// `dirtyPages` has a bit for each seat page that a join or a rotation made old. `firstFree` is a seat + 1.
    struct Room {
        uint16 seats;
        uint16 firstFree;
        uint16 dirtyPages;
    }

    /// `record`: the page with −key, operator and owner. `nextFree`: the free seat + 1 after this free one.
    /// `rotatedFor`: the epoch that its last rotation was for; 0 for none.
    struct Seat {
        address record;
        uint16 nextFree;
        uint32 rotatedFor;
    }

    address private immutable _deployer;
    /// @inheritdoc IEpochTables
    uint64 public immutable epochSeconds;
    /// @inheritdoc IEpochTables
    uint64 public immutable graceSeconds;

    Head private _head;
    /// @inheritdoc IEpochTables
    address public source;
    Room private _room;
    mapping(uint32 epoch => Past) private _past;
    mapping(uint32 epoch => mapping(uint32 attesterSet => address table)) private _setTables;
    AttesterSets.Rules[] private _sets;

    mapping(address operator => uint256 seatPlusOne) private _seatOf;
    mapping(bytes32 keyHash => bool) private _isKeyTaken;
    mapping(uint256 seat => Seat) private _seats;
    /// Seat 0 has the highest bits: the words are the table's bytes.
    mapping(uint256 word => uint256 eight) private _powers;
    mapping(uint256 index => address) private _seatPages;

    modifier onlySource() {
        if (msg.sender != source) revert OnlySource(msg.sender);
        _;
    }

    constructor(uint64 epochSeconds_, uint64 graceSeconds_) EIP712("ProofOfInference", "1") {
        if (epochSeconds_ == 0 || epochSeconds_ > MAX_SECONDS) revert InvalidSetting("epochSeconds", epochSeconds_);
        if (graceSeconds_ == 0 || graceSeconds_ > MAX_SECONDS) revert InvalidSetting("graceSeconds", graceSeconds_);
        (epochSeconds, graceSeconds, _deployer) = (epochSeconds_, graceSeconds_, msg.sender);
    }

    // --- the source --------------------------------------------------------------------------------------------------

    /// @inheritdoc IEpochTables
    function setSource(address source_) external {
        if (msg.sender != _deployer) revert OnlyDeployer(msg.sender);
        if (source != address(0)) revert SourceAlreadySet(source);
        if (source_ == address(0)) revert InvalidSetting("source", 0);
        source = source_;
        emit SourceSet(source_);
    }

    /// @inheritdoc IEpochTables
    function seat(address operator, address owner, bytes calldata voteKey, bytes calldata possession, uint32 power)
        external
        onlySource
        returns (uint16 taken)
    {
        if (_seatOf[operator] != 0) revert AlreadySeated(operator);
        _takeKey(operator, voteKey, possession);
        taken = _takeSeat(VoteKey.write(voteKey, operator, owner));
        _seatOf[operator] = uint256(taken) + 1;
        emit AttesterSeated(operator, owner, taken, voteKey);
        _setPower(operator, taken, power);
    }

    /// @inheritdoc IEpochTables
    function rotateKey(address operator, bytes calldata voteKey, bytes calldata possession) external onlySource {
        uint16 its = _requireSeat(operator);
        uint32 next = _head.epoch + 1;
        // A roll of several pages takes several calls. Who rotated again after each would have its page written anew
        // instead of the others, for ever, and nobody could roll or leave.
        if (_seats[its].rotatedFor == next) revert AlreadyRotated(operator, next);
        _takeKey(operator, voteKey, possession);
        address owner = OperatorTable.addressAt(_seats[its].record, OperatorTable.RECORD_OWNER);
        (_seats[its].record, _seats[its].rotatedFor) = (VoteKey.write(voteKey, operator, owner), next);
        _room.dirtyPages |= _pageBit(its);
        emit VoteKeyRotated(operator, its, voteKey);
    }

    /// @inheritdoc IEpochTables
    function setPower(address operator, uint32 power, bool mayRollNow) external onlySource {
        _setPower(operator, _requireSeat(operator), power);
        if (mayRollNow) _head.isDue = true;
    }

    /// @inheritdoc IEpochTables
    function unseat(address operator) external onlySource {
        uint16 left = _requireSeat(operator);
        delete _seatOf[operator];
        // The seat page keeps the key: nobody adds the key of a seat without power.
        _writePower(left, 0);
        _seats[left].nextFree = _room.firstFree;
        _room.firstFree = left + 1;
        _head.isDue = true;
        emit AttesterUnseated(operator, left);
    }

    function _requireSeat(address operator) private view returns (uint16) {
        uint256 seatPlusOne = _seatOf[operator];
        if (seatPlusOne == 0) revert NotSeated(operator);
        return uint16(seatPlusOne - 1);
    }

    /// @dev A key is taken for ever: under one that came back, old votes would be somebody else's.
    function _takeKey(address operator, bytes calldata voteKey, bytes calldata possession) private {
        VoteKey.requireLengths(voteKey, possession);
        bytes32 keyHash = keccak256(voteKey);
        if (_isKeyTaken[keyHash]) revert VoteKeyTaken(keyHash);
        VoteKey.requirePossession(voteKey, possession, possessionDigest(operator, keyHash), operator, keyHash);
        _isKeyTaken[keyHash] = true;
    }

    /// @dev A free seat, or a new one. Older tables point to older seat pages, so whoever sat there before stays there.
    function _takeSeat(address record) private returns (uint16 taken) {
        Room memory room = _room;
        if (room.firstFree != 0) {
            taken = room.firstFree - 1;
            room.firstFree = _seats[taken].nextFree;
        } else {
            if (room.seats == OperatorTable.MAX_SEATS) revert TooManySeats(OperatorTable.MAX_SEATS);
            taken = room.seats++;
        }
        room.dirtyPages |= _pageBit(taken);
        _room = room;
        _seats[taken] = Seat({record: record, nextFree: 0, rotatedFor: 0});
    }

    function _pageBit(uint256 number) private pure returns (uint16) {
        return uint16(1 << (number / OperatorTable.SEATS_PER_PAGE));
    }

    function _setPower(address operator, uint16 its, uint32 power) private {
        _writePower(its, power);
        emit PowerChanged(operator, its, power);
    }

    function _writePower(uint256 its, uint32 power) private {
        uint256 shift = 32 * (POWERS_PER_WORD - 1 - its % POWERS_PER_WORD);
        uint256 others = _powers[its / POWERS_PER_WORD] & ~(uint256(type(uint32).max) << shift);
        _powers[its / POWERS_PER_WORD] = others | uint256(power) << shift;
    }

    // --- epochs ------------------------------------------------------------------------------------------------------

    /// @inheritdoc IEpochTables
    function rollEpoch() external returns (uint32 epoch) {
        uint64 due = rollableAt();
        if (block.timestamp < due) revert EpochNotOver(due);
        if (!_cleanOnePage()) return 0;

        Head memory head = _head;
        bytes memory draft = _draft();
        (uint64 total, uint256 attesters) = TableDraft.sum(draft);
        _addKeys(draft, head.table);
        address table = CodePage.write(draft);

        epoch = head.epoch + 1;
        _past[head.epoch] = Past({table: head.table, supersededAt: uint64(block.timestamp)});
        _head = Head({table: table, epoch: epoch, rolledAt: uint40(block.timestamp), isDue: false});
        emit EpochRolled(epoch, attesters, total, table);
    }

    /// @dev Writes the first dirty seat page, if there is one. Returns whether all are clean now.
    function _cleanOnePage() private returns (bool) {
        Room memory room = _room;
        if (room.dirtyPages == 0) return true;
        uint256 number = 0;
        while (room.dirtyPages >> number & 1 == 0) ++number;

        uint256 first = number * OperatorTable.SEATS_PER_PAGE;
        uint256 count = room.seats - first;
        if (count > OperatorTable.SEATS_PER_PAGE) count = OperatorTable.SEATS_PER_PAGE;
        bytes memory records = new bytes(OperatorTable.RECORD * count);
        uint256 target;
        assembly ("memory-safe") {
            target := add(records, 32)
        }
        for (uint256 i = 0; i < count; ++i) {
            CodePage.read(_seats[first + i].record, 0, OperatorTable.RECORD, target + OperatorTable.RECORD * i);
        }
        address page = CodePage.write(records);
        _seatPages[number] = page;
        emit SeatPageWritten(number, page);
        room.dirtyPages &= room.dirtyPages - 1;
        _room.dirtyPages = room.dirtyPages;
        return room.dirtyPages == 0;
    }

    /// @dev The seats as they are now, without their aggregate key.
    function _draft() private view returns (bytes memory draft) {
        uint256 seats = _room.seats;
        draft = TableDraft.blank(seats, 0);
        for (uint256 i = 0; i * POWERS_PER_WORD < seats; ++i) {
            TableDraft.setPowers(draft, i, _powers[i]);
        }
        for (uint256 i = 0; i < OperatorTable.pagesFor(seats); ++i) {
            TableDraft.setPage(draft, i, _seatPages[i]);
        }
    }

    /// @dev The aggregate key of the table before, if it has the same voters: most epochs only move powers.
    function _addKeys(bytes memory draft, address previous) private view {
        if (previous != address(0)) {
            bytes memory old = TableDraft.read(previous);
            if (TableDraft.hasVotersOf(draft, old)) return TableDraft.takeAggregate(draft, old);
        }
        TableDraft.aggregate(draft);
    }

    /// @inheritdoc IEpochTables
    function createAttesterSet(AttesterSet calldata rules) external returns (uint32 id) {
        _sets.push(AttesterSets.write(rules));
        id = uint32(_sets.length);
        emit AttesterSetCreated(id, rules);
    }

    /// @inheritdoc IEpochTables
    function rollSet(uint32 epoch, uint32 set) external returns (uint64 total) {
        // An expired one too: what a batch settled for a set is shared by this table, whenever it is claimed.
        bytes memory everybody = TableDraft.read(_tableAt(epoch, 0));
        AttesterSets.Rules memory rules = _rulesOf(set);
        if (_setTables[epoch][set] != address(0)) revert SetAlreadyRolled(epoch, set);
        bytes memory draft = AttesterSets.draft(rules, everybody);
        (total,) = TableDraft.sum(draft);
        TableDraft.aggregate(draft);
        AttesterSets.addOwners(draft, keccak256(abi.encode(epoch, set)));
        address table = CodePage.write(draft);
        _setTables[epoch][set] = table;
        emit SetRolled(epoch, set, total, table);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IEpochTables
    function currentEpoch() external view returns (uint32) {
        return _head.epoch;
    }

    /// @inheritdoc IEpochTables
    function rollableAt() public view returns (uint64) {
        Head memory head = _head;
        if (head.epoch == 0) return 0;
        return head.isDue ? head.rolledAt : head.rolledAt + epochSeconds;
    }

    /// @inheritdoc IEpochTables
    function isExpired(uint32 epoch) external view returns (bool) {
        return epoch < _head.epoch && block.timestamp > _past[epoch].supersededAt + graceSeconds;
    }

    /// @inheritdoc IEpochTables
    function tableOf(uint32 epoch, uint32 set)
        external
        view
        returns (address[] memory operators, bytes[] memory voteKeys, uint64[] memory powers)
    {
        address written = set == 0 ? address(0) : _setTables[epoch][set];
        bytes memory draft = TableDraft.read(written == address(0) ? _tableAt(epoch, 0) : written);
        if (set != 0 && written == address(0)) draft = AttesterSets.draft(_rulesOf(set), draft);
        return TableDraft.entries(draft);
    }

    /// @inheritdoc IEpochTables
    function attesterSet(uint32 id) external view returns (AttesterSet memory) {
        return AttesterSets.read(_rulesOf(id));
    }

    /// @inheritdoc IEpochTables
    function attesterSetCount() external view returns (uint256) {
        return _sets.length;
    }

    /// @inheritdoc IEpochTables
    function voteKeyOf(address operator) external view returns (bytes memory) {
        uint256 seatPlusOne = _seatOf[operator];
        return seatPlusOne == 0 ? bytes("") : VoteKey.read(_seats[seatPlusOne - 1].record);
    }

    /// @inheritdoc IEpochTables
    function possessionDigest(address operator, bytes32 keyHash) public view returns (bytes32) {
        return _hashTypedDataV4(Digests.hashKeyPossession(operator, keyHash));
    }

    /// @inheritdoc IEpochTables
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _rulesOf(uint32 set) private view returns (AttesterSets.Rules memory) {
        if (set == 0 || set > _sets.length) revert UnknownAttesterSet(set);
        return _sets[set - 1];
    }

    /// @inheritdoc BLSQuorumVerifier
    function _tableAt(uint32 epoch, uint32 set) internal view override returns (address table) {
        Head memory head = _head;
        table = epoch == head.epoch ? head.table : _past[epoch].table;
        if (table == address(0)) revert UnknownEpoch(epoch, head.epoch);
        if (set != 0) table = _setTableAt(epoch, set);
    }

    /// @inheritdoc BLSQuorumVerifier
    function _validTableAt(uint32 epoch, uint32 set) internal view override returns (address table) {
        uint32 current = _head.epoch;
        // Mostly this is all: one slot. (And one comparison: this is the hot path.)
        if ((epoch ^ current) | set == 0) {
            if (epoch != 0) return _head.table;
        }

        table = _tableAt(epoch, set);
        uint64 expiredAt = _past[epoch].supersededAt + graceSeconds;
        if (epoch != current && block.timestamp > expiredAt) revert EpochExpired(epoch, expiredAt);
    }

    function _setTableAt(uint32 epoch, uint32 set) private view returns (address table) {
        table = _setTables[epoch][set];
        if (table == address(0)) revert SetTableMissing(epoch, set);
    }
}
