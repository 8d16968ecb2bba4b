// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Base} from "./Base.sol";
import {Keys} from "./Keys.sol";

/// @notice EpochTables alone, whose source is the test: attesters get seats and powers without any stake.
abstract contract Tables is Base {
    uint64 internal constant EPOCH_SECONDS = 1 hours;
    uint64 internal constant GRACE_SECONDS = 2 hours;
    uint256 internal constant START = 1_800_000_000;
    bytes32 internal constant DIGEST = keccak256("digest");

    IEpochTables internal tables;
    mapping(address operator => uint256 id) internal idOf;
    /// Which secret an attester's present key has, if it rotated.
    mapping(uint256 id => uint256 secret) internal rotatedSecret;

    function setUp() public virtual {
        vm.warp(START);
        tables = deployTables(EPOCH_SECONDS, GRACE_SECONDS);
        tables.setSource(address(this));
    }

    function deployTables(uint64 epochSeconds, uint64 graceSeconds) internal returns (IEpochTables) {
        return IEpochTables(deploy("EpochTables.sol:EpochTables", abi.encode(epochSeconds, graceSeconds)));
    }

    // --- attesters ---------------------------------------------------------------------------------------------------

    function accountOf(uint256 id) internal pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("operator", id)))));
    }

    /// @dev Three operators in a row, 1 to 3, 4 to 6 and so on, have one owner.
    function ownerOf(uint256 id) internal pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("owner", (id + 2) / 3)))));
    }

    function secretOf(uint256 id) internal view returns (uint256) {
        uint256 rotated = rotatedSecret[id];
        return rotated == 0 ? uint256(keccak256(abi.encode("vote key", id))) % Keys.ORDER : rotated;
    }

    function keyOf(uint256 id) internal view returns (bytes memory) {
        return Keys.publicKey(secretOf(id));
    }

    /// @dev That the key of `secret` is `operator`'s.
    function prove(uint256 secret, address operator) internal view returns (bytes memory) {
        bytes32 digest = tables.possessionDigest(operator, keccak256(Keys.publicKey(secret)));
        return Keys.sign(secret, digest, BLS12381.POSSESSION_TAG);
    }

    function join(uint256 id, uint32 power) internal returns (uint16) {
        address account = accountOf(id);
        idOf[account] = id;
        return tables.seat(account, ownerOf(id), keyOf(id), prove(secretOf(id), account), power);
    }

    function joinMany(uint256 count, uint32 power) internal {
        for (uint256 id = 1; id <= count; ++id) {
            join(id, power);
        }
    }

    function rotate(uint256 id) internal {
        uint256 secret = uint256(keccak256(abi.encode("next", secretOf(id)))) % Keys.ORDER;
        tables.rotateKey(accountOf(id), Keys.publicKey(secret), prove(secret, accountOf(id)));
        rotatedSecret[id] = secret;
    }

    /// @dev Lets enough time pass, then rolls until the epoch is new.
    function roll() internal returns (uint32 epoch) {
        if (block.timestamp < tables.rollableAt()) vm.warp(tables.rollableAt());
        while (epoch == 0) {
            epoch = tables.rollEpoch();
        }
    }

    // --- votes -------------------------------------------------------------------------------------------------------

    /// @dev The aggregate over DIGEST by the seats whose bits are set in `signers`, beyond 256 seats over again, and
    /// that have power; and the indices that go with it.
    function vote(uint32 epoch, uint32 set, bool isApproval, uint256 signers)
        internal
        view
        returns (bytes memory signature, bytes memory indices)
    {
        (address[] memory operators,, uint64[] memory powers) = tables.tableOf(epoch, set);
        uint256 secret = 0;
        for (uint256 i = 0; i < operators.length; ++i) {
            if (powers[i] == 0) continue;
            bool signs = signers >> (i & 255) & 1 == 1;
            if (signs) secret = addmod(secret, secretOf(idOf[operators[i]]), Keys.ORDER);
            if (signs != isApproval) indices = bytes.concat(indices, indexOf(i, operators.length));
        }
        signature = sign(secret);
    }

    function indexOf(uint256 index, uint256 seats) internal pure returns (bytes memory) {
        return seats > 256 ? abi.encodePacked(uint16(index)) : abi.encodePacked(uint8(index));
    }

    function sign(uint256 secret) internal view returns (bytes memory) {
        return Keys.sign(secret, DIGEST, BLS12381.SIGNATURE_TAG);
    }
}
