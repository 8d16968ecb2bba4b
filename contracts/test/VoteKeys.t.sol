// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Keys} from "./Keys.sol";
import {Tables} from "./Tables.sol";

/// @notice How a key comes in, by a seat or a rotation. Branches: tree/seat.tree, tree/rotateKey.tree.
contract VoteKeysTest is Tables {
    address private constant OPERATOR = address(0xa77e57);

    function setUp() public override {
        super.setUp();
        join(1, 1);
    }

    /// @dev Both ways in refuse a key alike.
    function expectRefused(bytes memory key, bytes memory possession, bytes memory revertData) private {
        vm.expectRevert(revertData);
        tables.seat(OPERATOR, OPERATOR, key, possession, 1);
    }

    function test_seat_RevertsForWrongLengths() public {
        bytes memory key = keyOf(2);
        bytes memory possession = prove(secretOf(2), OPERATOR);
        expectRefused("", possession, abi.encodeWithSelector(IEpochTables.VoteKeyLength.selector, 0));
        bytes memory longer = bytes.concat(key, hex"00");
        expectRefused(longer, possession, abi.encodeWithSelector(IEpochTables.VoteKeyLength.selector, 193));
        expectRefused(key, "", abi.encodeWithSelector(IEpochTables.PossessionLength.selector, 0));
        longer = bytes.concat(possession, hex"00");
        expectRefused(key, longer, abi.encodeWithSelector(IEpochTables.PossessionLength.selector, 97));
    }

    function test_seat_RevertsForAKeyThatWasEverTaken() public {
        bytes memory key = keyOf(1);
        bytes memory possession = prove(secretOf(1), OPERATOR);
        bytes memory refusal = abi.encodeWithSelector(IEpochTables.VoteKeyTaken.selector, keccak256(key));
        expectRefused(key, possession, refusal);
        rotate(1);
        expectRefused(key, possession, refusal);
        tables.unseat(accountOf(1));
        expectRefused(key, possession, refusal);
        bytes memory own = prove(uint256(keccak256(abi.encode("vote key", 1))) % Keys.ORDER, accountOf(1));
        vm.expectRevert(refusal);
        tables.seat(accountOf(1), OPERATOR, key, own, 1);
    }

    function test_seat_RevertsForAnothersPossession() public {
        bytes memory key = keyOf(2);
        bytes memory refusal =
            abi.encodeWithSelector(IEpochTables.PossessionMismatch.selector, OPERATOR, keccak256(key));
        expectRefused(key, prove(secretOf(2), accountOf(2)), refusal);
        expectRefused(key, prove(secretOf(3), OPERATOR), refusal);
        expectRefused(key, new bytes(96), refusal);
    }

    function test_seat_RevertsForAVoteInPlaceOfAPossession() public {
        bytes memory key = keyOf(2);
        bytes32 digest = tables.possessionDigest(OPERATOR, keccak256(key));
        bytes memory voted = Keys.sign(secretOf(2), digest, BLS12381.SIGNATURE_TAG);
        expectRefused(
            key, voted, abi.encodeWithSelector(IEpochTables.PossessionMismatch.selector, OPERATOR, keccak256(key))
        );
    }

    function test_seat_RevertsForAPossessionOnAnotherChainOrContract() public {
        bytes memory key = keyOf(2);
        IEpochTables other = deployTables(1, 1);
        assertTrue(other.domainSeparator() != tables.domainSeparator(), "domains");
        bytes32 digest = other.possessionDigest(OPERATOR, keccak256(key));
        bytes memory possession = Keys.sign(secretOf(2), digest, BLS12381.POSSESSION_TAG);
        expectRefused(
            key, possession, abi.encodeWithSelector(IEpochTables.PossessionMismatch.selector, OPERATOR, keccak256(key))
        );
    }

    function test_seat_RevertsForMalformedKeys() public {
        string memory json = vm.readFile("../tests/vectors/bls.json");
        bytes memory possession = prove(secretOf(2), OPERATOR);
        expectRefused(new bytes(192), possession, abi.encodeWithSelector(IEpochTables.InfinityVoteKey.selector));
        uint256 i = 1; // the first is infinity
        for (; vm.keyExistsJson(json, string.concat(".malformedG2[", vm.toString(i), "].point")); ++i) {
            bytes memory key = vm.parseJsonBytes(json, string.concat(".malformedG2[", vm.toString(i), "].point"));
            expectRefused(
                key, possession, abi.encodeWithSelector(IEpochTables.MalformedVoteKey.selector, key, possession)
            );
        }
        assertTrue(i > 5, "there are keys to check");
    }

    function test_seat_RevertsForMalformedPossessions() public {
        string memory json = vm.readFile("../tests/vectors/bls.json");
        bytes memory key = keyOf(2);
        uint256 i = 1; // the first is infinity
        for (; vm.keyExistsJson(json, string.concat(".malformedG1[", vm.toString(i), "].point")); ++i) {
            bytes memory proof = vm.parseJsonBytes(json, string.concat(".malformedG1[", vm.toString(i), "].point"));
            expectRefused(key, proof, abi.encodeWithSelector(IEpochTables.MalformedVoteKey.selector, key, proof));
        }
        assertTrue(i > 5, "there are proofs to check");
    }

    function test_rotateKey_ChangesTheKeyAndTellsSo() public {
        bytes memory key = keyOf(2);
        bytes memory possession = prove(secretOf(2), accountOf(1));
        vm.expectEmit(address(tables));
        emit IEpochTables.VoteKeyRotated(accountOf(1), 0, key);
        tables.rotateKey(accountOf(1), key, possession);
        assertEq(tables.voteKeyOf(accountOf(1)), key, "the new one");
    }

    function test_rotateKey_RefusesWhatASeatRefuses() public {
        bytes memory key = keyOf(1);
        bytes memory possession = prove(secretOf(1), accountOf(1));
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.VoteKeyTaken.selector, keccak256(key)));
        tables.rotateKey(accountOf(1), key, possession);
        key = keyOf(2);
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.PossessionMismatch.selector, accountOf(1), keccak256(key)));
        tables.rotateKey(accountOf(1), key, possession);
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.VoteKeyLength.selector, 191));
        tables.rotateKey(accountOf(1), new bytes(191), possession);
    }

    function test_rotateKey_KeepsOperatorAndOwner() public {
        // 1 and 2 have one owner: a set that asks for two owners tells whether the owner is still the same.
        join(2, 1);
        rotate(1);
        IEpochTables.AttesterSet memory rules;
        rules.minimumOwners = 2;
        tables.createAttesterSet(rules);
        roll();
        tables.rollSet(1, 1);
        (address[] memory operators,,) = tables.tableOf(1, 1);
        assertEq(operators[0], accountOf(1), "operator");
        (bytes memory signature,) = vote(1, 1, true, 3);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.OwnersNotReached.selector, 1, 2));
        tables.verifyQuorum(DIGEST, 1, 1, true, signature, "");
    }

    function test_possessionDigest_IsThatOfEip712() public view {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("ProofOfInference"),
                keccak256("1"),
                block.chainid,
                address(tables)
            )
        );
        assertEq(tables.domainSeparator(), domain, "domain");
        bytes32 keyHash = keccak256("key");
        bytes32 structHash =
            keccak256(abi.encode(keccak256("KeyPossession(address operator,bytes32 keyHash)"), OPERATOR, keyHash));
        assertEq(
            tables.possessionDigest(OPERATOR, keyHash),
            keccak256(abi.encodePacked(hex"1901", domain, structHash)),
            "digest"
        );
    }
}
