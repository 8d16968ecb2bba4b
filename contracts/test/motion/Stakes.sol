// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../../src/Governed.sol";
import {IEpochTables} from "../../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../../src/interfaces/IOperatorRegistry.sol";
import {IQuorumVerifier} from "../../src/interfaces/IQuorumVerifier.sol";
import {BLS12381} from "../../src/libraries/BLS12381.sol";
import {Keys} from "../Keys.sol";
import {Books} from "./Books.sol";

/// @notice Steps of operators: who comes, pays, goes, and votes in the next table.
abstract contract Stakes is Books {
    /// More than 2^32 - 1 units.
    uint256 private constant HUGE = 5_000_000 ether;

    /// @dev Somebody new, if there is anyone and it is looked for.
    function enter(uint256 seed, uint8 roles, uint256 stake) public {
        uint256 id = idAt(seed);
        for (uint256 i = 0; !isRare(seed, 4) && i < OPERATORS && books[id].roles != 0; ++i) {
            id = idAt(seed % OPERATORS + i);
        }
        roles = uint8(bound(roles, 1, 7));
        stake = bound(stake, MINIMUM_STAKE, 5 * MINIMUM_STAKE);
        if (isRare(seed, 8)) stake = MINIMUM_STAKE - 1;
        bytes4 refusal = 0;
        if (isPaused(address(registry))) refusal = Governed.Paused.selector;
        else if (books[id].roles != 0) refusal = IOperatorRegistry.AlreadyRegistered.selector;
        else if (stake < MINIMUM_STAKE) refusal = IOperatorRegistry.StakeTooSmall.selector;

        bytes memory message = abi.encodeCall(IOperatorRegistry.register, (registration(id, roles, stake)));
        attempt(accountOf(id), address(registry), stake, message, refusal);
        if (refusal != 0) return;
        (books[id].roles, books[id].stake) = (roles, stake);
        secretOf[keccak256(Keys.publicKey(voteSecret(id)))] = voteSecret(id);
        ++done["enter"];
    }

    /// @dev Anyone may pay for anyone.
    function addStake(uint256 seed, uint256 amount) external {
        uint256 id = idAt(seed);
        amount = isRare(seed, 24) ? HUGE : bound(amount, 0, MINIMUM_STAKE);
        bytes memory message = abi.encodeCall(IOperatorRegistry.addStake, (accountOf(id), amount));
        bytes4 refusal = notStaying(id);
        attempt(accountOf(idAt(seed >> 8)), address(registry), amount, message, refusal);
        if (refusal == 0) books[id].stake += amount;
    }

    function leave(uint256 seed) external {
        uint256 id = idAt(seed);
        address from = isRare(seed, 8) ? accountOf(STRANGER_ID) : accountOf(id);
        leaveAs(from, id);
    }

    function leaveAs(address from, uint256 id) internal {
        bytes4 refusal = notStaying(id);
        if (refusal == 0 && from != accountOf(id)) refusal = IOperatorRegistry.OnlyOwner.selector;
        attempt(from, address(registry), abi.encodeCall(IOperatorRegistry.leave, (accountOf(id))), refusal);
        if (refusal != 0) return;
        books[id].leftAt = block.timestamp;
        ++done["leave"];
        if (books[id].roles & ATTESTER == 0) return;
        (books[id].leftEpoch, isDue) = (epoch, true);
    }

    function notStaying(uint256 id) internal view returns (bytes4) {
        if (books[id].roles == 0) return IOperatorRegistry.NotRegistered.selector;
        return books[id].leftAt != 0 ? IOperatorRegistry.AlreadyLeft.selector : bytes4(0);
    }

    /// @dev Somebody who is on the way out, if there is anyone.
    function withdraw(uint256 seed) external {
        uint256 id = idAt(seed);
        for (uint256 i = 0; i < OPERATORS && !(books[id].leftAt != 0 && !books[id].isGone); ++i) {
            id = idAt(seed % OPERATORS + i);
        }
        withdrawAs(isRare(seed, 8) ? accountOf(STRANGER_ID) : accountOf(id), id);
    }

    function withdrawAs(address from, uint256 id) internal {
        bytes4 refusal = withdrawRefusal(from, id);
        bytes memory message = abi.encodeCall(IOperatorRegistry.withdraw, (accountOf(id)));
        attempt(from, address(registry), message, refusal);
        if (refusal != 0) return;
        goesTo(accountOf(id), books[id].stake);
        (books[id].stake, books[id].isGone) = (0, true);
        ++done["withdraw"];
    }

    function withdrawRefusal(address from, uint256 id) private view returns (bytes4) {
        Book storage book = books[id];
        if (book.roles == 0) return IOperatorRegistry.NotRegistered.selector;
        if (from != accountOf(id)) return IOperatorRegistry.OnlyOwner.selector;
        if (book.leftAt == 0) return IOperatorRegistry.NotLeft.selector;
        if (book.isGone) return IOperatorRegistry.AlreadyWithdrawn.selector;
        if (block.timestamp < book.leftAt + UNBONDING_SECONDS) return IOperatorRegistry.StillBonded.selector;
        if (book.leftEpoch != 0 && !isExpired(book.leftEpoch)) return IOperatorRegistry.StillInTable.selector;
        return book.held != 0 ? IOperatorRegistry.SlashPending.selector : bytes4(0);
    }

    /// @dev A new key, or (rarely) the one that it began with.
    function rotate(uint256 seed) external {
        uint256 id = idAt(seed);
        bool isOld = isRare(seed, 4);
        uint256 secret = isOld ? voteSecret(id) : uint256(keccak256(abi.encode(id, books[id].rotations + 1))) >> 2;
        bytes4 refusal = notStaying(id);
        if (refusal == 0 && books[id].roles & ATTESTER == 0) refusal = IEpochTables.NotSeated.selector;
        if (refusal == 0 && rotatedFor[id] == epoch + 1) refusal = IEpochTables.AlreadyRotated.selector;
        if (refusal == 0 && isOld) refusal = IEpochTables.VoteKeyTaken.selector;

        bytes memory key = Keys.publicKey(secret);
        bytes memory possession =
            Keys.sign(secret, tables.possessionDigest(accountOf(id), keccak256(key)), BLS12381.POSSESSION_TAG);
        bytes memory message = abi.encodeCall(IOperatorRegistry.rotateVoteKey, (accountOf(id), key, possession));
        attempt(accountOf(id), address(registry), message, refusal);
        if (refusal != 0) return;
        ++books[id].rotations;
        rotatedFor[id] = epoch + 1;
        secretOf[keccak256(key)] = secret;
        ++done["rotate"];
    }

    // --- epochs ------------------------------------------------------------------------------------------------------

    function rollNow(uint256 seed) public {
        bytes4 refusal = 0;
        if (epoch != 0 && !isDue && block.timestamp < rolledAt + EPOCH_SECONDS) {
            refusal = IEpochTables.EpochNotOver.selector;
        }
        attempt(requesterAt(seed), address(tables), abi.encodeCall(IEpochTables.rollEpoch, ()), refusal);
        if (refusal != 0) return;
        supersededAt[epoch] = block.timestamp;
        (epoch, rolledAt, isDue) = (epoch + 1, block.timestamp, false);
        assertEq(tables.currentEpoch(), epoch, "epoch");
        tableHash[epoch] = hashOfTable(epoch);
        ++done["roll"];
        requireTable();
        if (seed & 3 != 0) rollSetOf(epoch);
    }

    function rollSet(uint256 seed) external {
        rollSetOf(epochAt(seed));
    }

    function rollSetOf(uint32 of_) private {
        bytes4 refusal = 0;
        if (isSetRolled[of_]) refusal = IEpochTables.SetAlreadyRolled.selector;
        attempt(requesterAt(of_), address(tables), abi.encodeCall(IEpochTables.rollSet, (of_, SET)), refusal);
        if (refusal != 0) return;
        isSetRolled[of_] = true;
        requireSetTable(of_);
    }

    function hashOfTable(uint32 of_) internal view returns (bytes32) {
        (address[] memory members, bytes[] memory keys, uint64[] memory powers) = tables.tableOf(of_, 0);
        return keccak256(abi.encode(members, keys, powers));
    }

    /// @dev Each seat has what the books say, everybody sits once, and the aggregate is that of all with power.
    function requireTable() private view {
        (address[] memory members,, uint64[] memory powers) = tables.tableOf(epoch, 0);
        uint256 total = 0;
        for (uint256 i = 0; i < members.length; ++i) {
            total += powers[i];
            if (powers[i] != 0) assertEq(powers[i], powerOf(idOf[members[i]]), "a seat's power");
        }
        uint256 expected = 0;
        for (uint256 id = 1; id <= OPERATORS; ++id) {
            expected += powerOf(id);
        }
        assertEq(total, expected, "everybody's power, once");
        if (total == 0) return;
        (bytes memory signature,) = vote("all", epoch, 0, true, EVERYBODY);
        assertEq(tables.verifyQuorum("all", epoch, 0, true, signature, ""), total, "the aggregate is everybody's");
    }

    function requireSetTable(uint32 of_) private view {
        (address[] memory members,, uint64[] memory powers) = tables.tableOf(of_, SET);
        (,, uint64[] memory all) = tables.tableOf(of_, 0);
        for (uint256 i = 0; i < members.length; ++i) {
            uint256 expected = all[i] > SET_MAXIMUM ? SET_MAXIMUM : all[i];
            if (all[i] < SET_MINIMUM || !isMember(idOf[members[i]])) expected = 0;
            assertEq(powers[i], expected, "a member's power");
        }
    }

    function wait(uint256 duration) external {
        uint256 most = [uint256(2 hours), 12 hours, 3 days, 30 days][duration & 3];
        vm.warp(block.timestamp + bound(duration >> 2, 1, most));
    }

    function pause(uint256 seed, bool isOn) external {
        address which = [address(registry), address(center), address(escrow), address(court)][seed & 3];
        bool isStranger = isRare(seed, 4);
        bytes4 refusal = isStranger ? Governed.NotPauser.selector : bytes4(0);
        address from = isStranger ? accountOf(STRANGER_ID) : owner;
        attempt(from, which, abi.encodeCall(Governed.pause, (isOn)), refusal);
    }
}
