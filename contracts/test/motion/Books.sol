// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../../src/Governed.sol";
import {IAttestationCenter} from "../../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../../src/interfaces/IEpochTables.sol";
import {IQuorumVerifier} from "../../src/interfaces/IQuorumVerifier.sol";
import {BLS12381} from "../../src/libraries/BLS12381.sol";
import {Keys} from "../Keys.sol";
import {Network} from "../Network.sol";

/// @notice Who takes part in a random motion of all five contracts, what they should have, and when a quorum is one: a
/// model that asks the contracts nothing that it is to check.
abstract contract Books is Network {
    uint256 internal constant OPERATORS = 10;
    uint256 internal constant MEMBERS = 6;
    uint256 internal constant FIRST_REQUESTER = 20;
    uint256 internal constant REQUESTERS = 2;
    uint256 internal constant AGGREGATOR_ID = 30;
    uint256 internal constant STRANGER_ID = 31;
    uint256 internal constant EVERYBODY = type(uint256).max;

    /// Definitions: 0 slashes rejected tasks, WAITING waits for all votes, NARROW has an attester set, settles singly.
    uint16 internal constant WAITING = 1;
    uint16 internal constant NARROW = 2;
    uint16 internal constant DEFINITIONS = 3;
    uint32 internal constant SET = 1;
    uint32 internal constant SET_MINIMUM = 1000;
    uint32 internal constant SET_MAXIMUM = 2500;
    uint16 internal constant SET_OWNERS = 2;

    struct Book {
        uint256 stake;
        uint256 held;
        uint256 leftAt;
        uint256 rotations;
        uint32 leftEpoch;
        uint8 roles;
        bool isGone;
    }

    error Unexpected(bytes message, bytes4 expected, bytes answer);

    mapping(uint256 id => Book) internal books;
    /// Everybody's account is filled with what it pays just when it pays: what lies there is what came back.
    mapping(address account => uint256 amount) public paidTo;
    uint256 public cameIn;
    uint256 public wentOut;
    /// Successes by name: a motion in which nothing happens shows nothing.
    mapping(bytes32 what => uint256 count) public done;

    uint32 internal epoch;
    uint256 internal rolledAt;
    bool internal isDue;
    mapping(uint32 epoch => uint256 time) internal supersededAt;
    mapping(uint32 epoch => bytes32 hash) internal tableHash;
    mapping(uint32 epoch => bool) internal isSetRolled;
    mapping(uint256 id => uint32 epoch) internal rotatedFor;
    mapping(bytes32 keyHash => uint256 secret) internal secretOf;

    function setUp() public virtual override {
        super.setUp();
        IAttestationCenter.TaskTerms memory other = terms();
        (other.waitsForAll, other.slashesRejected) = (true, false);
        addDefinition(other);
        other = terms();
        (other.attesterSet, other.settlesSingly) = (tables.createAttesterSet(setRules()), true);
        addDefinition(other);
        for (uint256 id = 1; id <= OPERATORS; ++id) {
            idOf[accountOf(id)] = id;
        }
    }

    function setRules() internal pure returns (IEpochTables.AttesterSet memory rules) {
        rules.members = new address[](MEMBERS);
        for (uint256 i = 0; i < MEMBERS; ++i) {
            address member = accountOf(i + 1);
            uint256 place = i;
            for (; place != 0 && rules.members[place - 1] > member; --place) {
                rules.members[place] = rules.members[place - 1];
            }
            rules.members[place] = member;
        }
        (rules.minimumPower, rules.maximumPower, rules.minimumOwners) = (SET_MINIMUM, SET_MAXIMUM, SET_OWNERS);
    }

    // --- calling -----------------------------------------------------------------------------------------------------

    /// @dev The call succeeds if `refusal` is zero, and else fails with that very error.
    function attempt(address from, address to, uint256 value, bytes memory message, bytes4 refusal)
        internal
        returns (bytes memory answer)
    {
        if (value != 0) vm.deal(from, from.balance + value);
        bool isDone;
        vm.prank(from);
        (isDone, answer) = to.call{value: value}(message);
        if (isDone != (refusal == 0) || !isDone && bytes4(answer) != refusal) {
            revert Unexpected(message, refusal, answer);
        }
        if (isDone) cameIn += value;
        else if (value != 0) vm.deal(from, from.balance - value);
    }

    function attempt(address from, address to, bytes memory message, bytes4 refusal) internal returns (bytes memory) {
        return attempt(from, to, 0, message, refusal);
    }

    function goesTo(address account, uint256 amount) internal {
        paidTo[account] += amount;
        wentOut += amount;
    }

    function isPaused(address which) internal view returns (bool) {
        return block.timestamp < Governed(which).pausedUntil();
    }

    /// @dev One of `oneIn` times.
    function isRare(uint256 seed, uint256 oneIn) internal pure returns (bool) {
        return uint256(keccak256(abi.encode("rare", seed))) % oneIn == 0;
    }

    function idAt(uint256 seed) internal pure returns (uint256) {
        return 1 + seed % OPERATORS;
    }

    function requesterAt(uint256 seed) internal pure returns (address) {
        return accountOf(FIRST_REQUESTER + seed % REQUESTERS);
    }

    // --- power -------------------------------------------------------------------------------------------------------

    function isStaying(uint256 id) internal view returns (bool) {
        return books[id].roles != 0 && books[id].leftAt == 0;
    }

    /// @dev Protocol §3, of what is in the book now.
    function powerOf(uint256 id) internal view returns (uint256 power) {
        Book storage book = books[id];
        if (book.roles & ATTESTER == 0 || book.leftAt != 0 || book.stake < MINIMUM_STAKE) return 0;
        power = book.stake / POWER_UNIT;
        if (power > type(uint32).max) power = type(uint32).max;
    }

    function isMember(uint256 id) internal pure returns (bool) {
        return id <= MEMBERS;
    }

    function isExpired(uint32 of_) internal view returns (bool) {
        return of_ != epoch && block.timestamp > supersededAt[of_] + GRACE_SECONDS;
    }

    /// @dev The current epoch; now and then an older one.
    function epochAt(uint256 seed) internal view returns (uint32) {
        return epoch > 1 && isRare(seed, 3) ? epoch - 1 - uint32(seed % 2) * (epoch > 2 ? 1 : 0) : epoch;
    }

    // --- votes -------------------------------------------------------------------------------------------------------

    /// @dev Everybody, any of them, all but one, or most.
    function signersAt(uint256 seed) internal pure returns (uint256) {
        uint256 rest = seed >> 2;
        if (seed & 3 == 0) return EVERYBODY;
        if (seed & 3 == 1) return rest;
        return seed & 3 == 2 ? ~(1 << (rest & 7)) : rest | rest >> 8;
    }

    /// @dev Network's, with the keys that were the operators' in that epoch.
    function vote(bytes32 digest, uint32 epoch_, uint32 set, bool isApproval, uint256 signers)
        internal
        view
        override
        returns (bytes memory signature, bytes memory indices)
    {
        (, bytes[] memory keys, uint64[] memory powers) = tables.tableOf(epoch_, set);
        uint256 secret = 0;
        for (uint256 i = 0; i < keys.length; ++i) {
            if (powers[i] == 0) continue;
            bool signs = signers >> i & 1 == 1;
            if (signs) secret = addmod(secret, secretOf[keccak256(keys[i])], Keys.ORDER);
            if (signs != isApproval) indices = abi.encodePacked(indices, uint8(i));
        }
        signature = Keys.sign(secret, digest, BLS12381.SIGNATURE_TAG);
    }

    struct Count {
        uint256 power;
        uint256 total;
        uint256 voters;
    }

    /// @dev Every table was compared with the books when it was made.
    function count(uint32 epoch_, uint32 set, uint256 signers) internal view returns (Count memory counted) {
        (,, uint64[] memory powers) = tables.tableOf(epoch_, set);
        for (uint256 i = 0; i < powers.length; ++i) {
            counted.total += powers[i];
            if (powers[i] == 0 || signers >> i & 1 == 0) continue;
            counted.power += powers[i];
            ++counted.voters;
        }
    }

    /// @dev Why these signers are no quorum; zero if they are. Each operator is its own owner.
    function quorumRefusal(uint32 epoch_, uint32 set, bool isApproval, uint256 signers) internal view returns (bytes4) {
        if (set != 0 && !isSetRolled[epoch_]) return IQuorumVerifier.SetTableMissing.selector;
        if (isExpired(epoch_)) return IQuorumVerifier.EpochExpired.selector;
        Count memory counted = count(epoch_, set, signers);
        bool isQuorum = isApproval ? 3 * counted.power > 2 * counted.total : 3 * counted.power > counted.total;
        if (!isQuorum) return IQuorumVerifier.QuorumNotReached.selector;
        if (set != 0 && counted.voters < SET_OWNERS) return IQuorumVerifier.OwnersNotReached.selector;
        return 0;
    }
}
