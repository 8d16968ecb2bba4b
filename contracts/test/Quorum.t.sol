// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Keys} from "./Keys.sol";
import {Tables} from "./Tables.sol";

/// @notice The quorum rule against a model of it, with real signatures. Tables of any size run the same tests.
abstract contract QuorumRules is Tables {
    uint256 internal seats;
    uint64[] internal powers;
    uint256 internal total;
    uint32 internal epoch;

    /// @dev Small powers, so that exact thirds come up often, and nobody's now and then.
    function stake(uint256 seed) internal {
        total = 0;
        powers = new uint64[](seats);
        for (uint256 i = 0; i < seats; ++i) {
            powers[i] = uint64(seed >> i % 31 * 8 & 255) % 7;
            tables.setPower(accountOf(i + 1), uint32(powers[i]), true);
            total += powers[i];
        }
        epoch = roll();
    }

    function powerOf(uint256 signers) internal view returns (uint256 power) {
        for (uint256 i = 0; i < seats; ++i) {
            if (signers >> (i & 255) & 1 == 1) power += powers[i];
        }
    }

    /// @dev Whether an honest signature by `signers` is accepted; it has to say the right power, or the right error.
    function isAccepted(bool isApproval, uint256 signers) internal view returns (bool) {
        (bytes memory signature, bytes memory indices) = vote(epoch, 0, isApproval, signers);
        uint256 expected = powerOf(signers);
        try tables.verifyQuorum(DIGEST, epoch, 0, isApproval, signature, indices) returns (uint256 power) {
            assertEq(power, expected, "power");
            return true;
        } catch (bytes memory reason) {
            bytes memory refusal =
                abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, expected, total, isApproval);
            assertEq(reason, refusal, "reason");
            return false;
        }
    }

    function checkStrictAndExclusive(uint256 seed, uint256 signers) internal {
        stake(seed);
        bool isApproved = isAccepted(true, signers);
        bool isRejected = isAccepted(false, ~signers);
        assertTrue(isApproved == (3 * powerOf(signers) > 2 * total), "approves above two thirds alone");
        assertTrue(isRejected == (3 * powerOf(~signers) > total), "rejects above one third alone");
        assertTrue(!(isApproved && isRejected), "never both, unless somebody votes twice");
    }

    /// @dev verifyQuorum and shareOf name the same first wrong index.
    function checkFirstWrongIndex(bytes memory indices, bool isApproval) internal view {
        bytes memory refusal = indexError(indices);
        bytes memory answer =
            revertOf(abi.encodeCall(tables.verifyQuorum, (DIGEST, epoch, 0, isApproval, sign(1), indices)));
        bytes memory share = abi.encodeCall(tables.shareOf, (epoch, 0, isApproval, indices, 0));
        if (refusal.length != 0) {
            assertEq(answer, refusal, "the first wrong index");
            assertEq(revertOf(share), refusal, "the first wrong index");
            return;
        }
        bytes4 selector = bytes4(answer);
        assertTrue(
            selector == IQuorumVerifier.QuorumNotReached.selector
                || selector == IQuorumVerifier.SignatureMismatch.selector,
            "the indices are in order"
        );
        (bool done,) = address(tables).staticcall(share);
        assertTrue(done, "the indices are in order");
    }

    function revertOf(bytes memory call) internal view returns (bytes memory) {
        (bool done, bytes memory answer) = address(tables).staticcall(call);
        assertTrue(!done, "has to revert");
        return answer;
    }

    function indexError(bytes memory indices) internal view returns (bytes memory) {
        uint256 width = seats > 256 ? 2 : 1;
        if (indices.length % width != 0) {
            return abi.encodeWithSelector(IQuorumVerifier.IndicesLength.selector, indices.length);
        }
        uint16 previous = 0;
        for (uint256 i = 0; i < indices.length / width; ++i) {
            uint16 index =
                width == 1 ? uint8(indices[i]) : uint16(uint8(indices[2 * i])) << 8 | uint8(indices[2 * i + 1]);
            if (index >= seats) {
                return abi.encodeWithSelector(IQuorumVerifier.IndexOutOfRange.selector, i, index, seats);
            }
            if (i > 0 && index == previous) {
                return abi.encodeWithSelector(IQuorumVerifier.IndexDuplicate.selector, i, index);
            }
            if (index < previous) return abi.encodeWithSelector(IQuorumVerifier.IndicesUnsorted.selector, i, index);
            if (powers[index] == 0) {
                return abi.encodeWithSelector(IQuorumVerifier.IndexWithoutPower.selector, i, index);
            }
            previous = index;
        }
        return "";
    }
}

/// @notice Branches: tree/verifyQuorum.tree, verifyVote.tree, verifyBothVotes.tree, shareOf.tree.
contract QuorumTest is QuorumRules {
    uint256 private constant ALL = 63;

    function setUp() public override {
        super.setUp();
        seats = 6;
        joinMany(6, 1);
        stake(0x010101010101);
    }

    // --- verifyQuorum ------------------------------------------------------------------------------------------------

    function testFuzz_verifyQuorum_IsStrictAndExclusive(uint256 seed, uint256 signers) public {
        checkStrictAndExclusive(seed, signers);
    }

    function test_verifyQuorum_KnowsExactThirds() public {
        for (uint256 i = 0; i < 6; ++i) {
            tables.setPower(accountOf(i + 1), 1000, true);
        }
        roll();
        (total, epoch) = (6000, tables.currentEpoch());
        powers = [1000, 1000, 1000, 1000, 1000, 1000];
        assertTrue(!isAccepted(true, 15), "two thirds");
        assertTrue(!isAccepted(false, 3), "one third");
        tables.setPower(accountOf(1), 1001, true);
        epoch = roll();
        (total, powers[0]) = (6001, 1001);
        assertTrue(isAccepted(true, 15), "a little more");
        assertTrue(isAccepted(false, 3), "a little more");
    }

    function testFuzz_verifyQuorum_NamesTheFirstWrongIndex(bytes memory indices, uint256 seed, bool isApproval) public {
        stake(seed);
        for (uint256 i = 0; i < indices.length; ++i) {
            // Small ones, so that not the first of all is wrong already.
            if (indices[i] < 0xf0) indices[i] = bytes1(uint8(indices[i]) % 7);
        }
        checkFirstWrongIndex(indices, isApproval);
    }

    function test_verifyQuorum_RevertsForEachKindOfWrongIndex() public {
        stake(0x010101000101); // seat 2 has none
        bytes memory signature = sign(1);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndexOutOfRange.selector, 1, 6, 6));
        tables.verifyQuorum(DIGEST, epoch, 0, true, signature, hex"0006");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndexOutOfRange.selector, 0, 255, 6));
        tables.verifyQuorum(DIGEST, epoch, 0, true, signature, hex"ff00");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndexDuplicate.selector, 1, 3));
        tables.verifyQuorum(DIGEST, epoch, 0, true, signature, hex"0303");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndicesUnsorted.selector, 1, 3));
        tables.verifyQuorum(DIGEST, epoch, 0, true, signature, hex"0403");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndexWithoutPower.selector, 1, 2));
        tables.verifyQuorum(DIGEST, epoch, 0, false, signature, hex"0002");
    }

    function testFuzz_verifyQuorum_TakesNoIndicesButTheSigners(uint256 signers, uint256 claimed, bool isApproval)
        public
        view
    {
        (signers, claimed) = (signers & ALL, claimed & ALL);
        (bytes memory signature,) = vote(epoch, 0, isApproval, signers);
        (, bytes memory indices) = vote(epoch, 0, isApproval, claimed);
        try tables.verifyQuorum(DIGEST, epoch, 0, isApproval, signature, indices) {
            assertEq(signers, claimed, "who is claimed is who signed");
        } catch {}
    }

    function testFuzz_verifyQuorum_TakesNoOtherSignature(uint256 position, uint8 flip, bytes32 otherDigest) public {
        if (flip == 0) flip = 1;
        (bytes memory signature, bytes memory indices) = vote(epoch, 0, true, ALL);
        if (otherDigest != DIGEST) {
            vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, otherDigest));
            tables.verifyQuorum(otherDigest, epoch, 0, true, signature, indices);
        }
        position %= signature.length;
        signature[position] = bytes1(uint8(signature[position]) ^ flip);
        vm.expectRevert();
        tables.verifyQuorum(DIGEST, epoch, 0, true, signature, indices);
    }

    function test_verifyQuorum_TakesNoSignatureOfAnotherLength() public {
        bytes memory signature = sign(1);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureLength.selector, 95));
        tables.verifyQuorum(DIGEST, epoch, 0, true, new bytes(95), "");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureLength.selector, 97));
        tables.verifyQuorum(DIGEST, epoch, 0, true, bytes.concat(signature, hex"00"), "");
    }

    function test_verifyQuorum_TakesNoInfinity() public {
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.InfinitySignature.selector));
        tables.verifyQuorum(DIGEST, epoch, 0, true, new bytes(96), "");
    }

    function test_verifyQuorum_TakesNoKeysThatAddUpToInfinity() public {
        // Who holds two keys may choose them so.
        uint256 secret = Keys.ORDER - secretOf(1);
        (bytes memory key, bytes memory possession) = (Keys.publicKey(secret), prove(secret, accountOf(2)));
        tables.rotateKey(accountOf(2), key, possession);
        epoch = roll();
        bytes memory signature = sign(1);
        for (uint256 id = 3; id <= 6; ++id) {
            tables.setPower(accountOf(id), 0, true);
        }
        epoch = roll();
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.InfinityAggregate.selector));
        tables.verifyQuorum(DIGEST, epoch, 0, true, signature, "");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.InfinityAggregate.selector));
        tables.verifyQuorum(DIGEST, epoch, 0, false, signature, hex"0001");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.InfinitySignature.selector));
        tables.verifyQuorum(DIGEST, epoch, 0, true, new bytes(96), "");
    }

    function test_verifyQuorum_TellsMalformedPoints() public {
        string memory json = vm.readFile("../tests/vectors/bls.json");
        uint256 i = 1; // the first is infinity
        for (; vm.keyExistsJson(json, string.concat(".malformedG1[", vm.toString(i), "].point")); ++i) {
            bytes memory point = vm.parseJsonBytes(json, string.concat(".malformedG1[", vm.toString(i), "].point"));
            vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.MalformedSignature.selector, point));
            tables.verifyQuorum(DIGEST, epoch, 0, true, point, "");
        }
        assertTrue(i > 5, "there are points to check");
    }

    function test_verifyQuorum_LosesABoundedAmountOfGasToAMalformedPoint() public {
        bytes memory malformed = new bytes(96);
        malformed[95] = 0x01;
        uint256 before = gasleft();
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.MalformedSignature.selector, malformed));
        tables.verifyQuorum(DIGEST, epoch, 0, true, malformed, "");
        assertTrue(before - gasleft() < 1_100_000, "not all that was there");
    }

    function test_verifyQuorum_RevertsWhereThePairingAnswersNothing() public {
        (bytes memory signature,) = vote(epoch, 0, true, ALL);
        vm.mockCall(address(0x0f), "", "");
        vm.expectRevert(abi.encodeWithSelector(BLS12381.PrecompileMissing.selector, address(0x0f)));
        tables.verifyQuorum(DIGEST, epoch, 0, true, signature, "");
    }

    function test_verifyQuorum_RevertsWhereNoKeyCanBeAdded() public {
        (bytes memory signature, bytes memory indices) = vote(epoch, 0, true, 31);
        vm.mockCallRevert(address(0x0d), "", "");
        vm.expectRevert(abi.encodeWithSelector(BLS12381.PrecompileMissing.selector, address(0x0d)));
        tables.verifyQuorum(DIGEST, epoch, 0, true, signature, indices);
    }

    // --- gas ---------------------------------------------------------------------------------------------------------

    /// @dev What a verification costs in a call. `vm.cool` reaches slots, not the code of accounts: as a transaction by
    /// itself it costs 2,500 more for the table, and as much for the first seat page (bench/gas.py measures those).
    function verifyingCosts(bool isApproval, uint256 signers) private returns (uint256) {
        (bytes memory signature, bytes memory indices) = vote(epoch, 0, isApproval, signers);
        bytes memory call = abi.encodeCall(tables.verifyQuorum, (DIGEST, epoch, 0, isApproval, signature, indices));
        vm.cool(address(tables));
        uint256 before = gasleft();
        (bool done,) = address(tables).staticcall(call);
        uint256 cost = before - gasleft();
        assertTrue(done, "accepted");
        return cost;
    }

    function test_verifyQuorum_CostsAPairingAndLittleMore() public {
        uint256 all = verifyingCosts(true, ALL);
        assertTrue(all > 119_000, "the slot was cold and the pairing real");
        assertTrue(all < 122_000, "nobody missing");
        uint256 one = verifyingCosts(true, ALL >> 1);
        assertTrue(one < all + 1700, "one missing");
        uint256 three = verifyingCosts(false, 7);
        assertTrue(three < one + 2400, "three reject");
        assertTrue(verifyingCosts(false, 15) < three + 1100, "one more rejects");
    }

    // --- verifyVote --------------------------------------------------------------------------------------------------

    function test_verifyVote_KnowsTheSeatsKeyInAnyEpoch() public {
        bytes memory signature = sign(secretOf(3));
        uint32 former = epoch;
        rotate(3);
        tables.setPower(accountOf(3), 0, true);
        epoch = roll();
        vm.warp(block.timestamp + 365 days);
        assertEq(tables.verifyVote(DIGEST, former, 2, signature), accountOf(3), "long ago");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, DIGEST));
        tables.verifyVote(DIGEST, epoch, 2, signature);
        signature = sign(secretOf(3));
        assertEq(tables.verifyVote(DIGEST, epoch, 2, signature), accountOf(3), "without power");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, DIGEST));
        tables.verifyVote(DIGEST, epoch, 3, signature);
    }

    function test_verifyVote_RevertsForWhatIsNoVote() public {
        bytes memory signature = sign(secretOf(1));
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndexOutOfRange.selector, 0, 6, 6));
        tables.verifyVote(DIGEST, epoch, 6, signature);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.UnknownEpoch.selector, epoch + 1, epoch));
        tables.verifyVote(DIGEST, epoch + 1, 0, signature);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureLength.selector, 0));
        tables.verifyVote(DIGEST, epoch, 0, "");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.InfinitySignature.selector));
        tables.verifyVote(DIGEST, epoch, 0, new bytes(96));
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, bytes32("other")));
        tables.verifyVote("other", epoch, 0, signature);
    }

    // --- verifyBothVotes ---------------------------------------------------------------------------------------------

    function testFuzz_verifyBothVotes_TakesTheSumAlone(bytes32 first, bytes32 second) public {
        uint256 secret = secretOf(4);
        bytes memory one = Keys.sign(secret, first, BLS12381.SIGNATURE_TAG);
        bytes memory both = addPoints(one, Keys.sign(secret, second, BLS12381.SIGNATURE_TAG));
        assertEq(tables.verifyBothVotes(first, second, epoch, 3, both), accountOf(4), "both");
        assertEq(tables.verifyBothVotes(second, first, epoch, 3, both), accountOf(4), "in any order");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, first));
        tables.verifyBothVotes(first, second, epoch, 3, one);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, first));
        tables.verifyBothVotes(first, second, epoch, 4, both);
        bytes memory twoPeople = addPoints(one, Keys.sign(secretOf(5), second, BLS12381.SIGNATURE_TAG));
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, first));
        tables.verifyBothVotes(first, second, epoch, 3, twoPeople);
    }

    function test_verifyBothVotes_AnswersLongAfter() public {
        bytes memory sum = addPoints(
            Keys.sign(secretOf(1), "one", BLS12381.SIGNATURE_TAG),
            Keys.sign(secretOf(1), "other", BLS12381.SIGNATURE_TAG)
        );
        tables.unseat(accountOf(1));
        roll();
        vm.warp(block.timestamp + 365 days);
        assertEq(tables.verifyBothVotes("one", "other", epoch, 0, sum), accountOf(1), "who left long ago");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndexOutOfRange.selector, 0, 6, 6));
        tables.verifyBothVotes("one", "other", epoch, 6, sum);
    }

    function test_verifyBothVotes_RevertsWherePointsCannotBeAdded() public {
        vm.mockCallRevert(address(0x0b), "", "");
        vm.expectPartialRevert(BLS12381.PrecompileMissing.selector);
        tables.verifyBothVotes("one", "other", epoch, 0, new bytes(96));
    }

    function addPoints(bytes memory one, bytes memory other) private view returns (bytes memory sum) {
        bytes memory input;
        for (uint256 i = 0; i < 2; ++i) {
            input = bytes.concat(input, pad(one, 48 * i));
        }
        for (uint256 i = 0; i < 2; ++i) {
            input = bytes.concat(input, pad(other, 48 * i));
        }
        (bool done, bytes memory padded) = address(0x0b).staticcall(input);
        assertTrue(done && padded.length == 128, "addition");
        sum = new bytes(96);
        for (uint256 i = 0; i < 48; ++i) {
            (sum[i], sum[48 + i]) = (padded[16 + i], padded[80 + i]);
        }
    }

    function pad(bytes memory packed, uint256 offset) private pure returns (bytes memory padded) {
        padded = new bytes(64);
        for (uint256 i = 0; i < 48; ++i) {
            padded[16 + i] = packed[offset + i];
        }
    }

    // --- shareOf -----------------------------------------------------------------------------------------------------

    function testFuzz_shareOf_AddsUpToTheSigners(uint256 seed, uint256 signers, bool isApproval) public {
        stake(seed);
        (, bytes memory indices) = vote(epoch, 0, isApproval, signers);
        uint32 former = epoch;
        stake(0);
        vm.warp(block.timestamp + 365 days);
        uint256 sum = 0;
        uint256 expected = 0;
        for (uint16 seat = 0; seat < 6; ++seat) {
            (address operator, uint256 power, uint256 signed) = tables.shareOf(former, 0, isApproval, indices, seat);
            assertEq(operator, accountOf(seat + 1), "operator");
            uint256 its = seed >> seat * 8 & 255;
            bool isSigner = signers >> seat & 1 == 1;
            assertEq(power, isSigner ? its % 7 : 0, "what it has of it");
            (sum, expected) = (sum + power, signed);
        }
        assertEq(sum, expected, "all that signed");
    }

    function test_shareOf_RevertsForNoSeat() public {
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndexOutOfRange.selector, 0, 6, 6));
        tables.shareOf(epoch, 0, true, "", 6);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SetTableMissing.selector, epoch, 1));
        tables.shareOf(epoch, 1, true, "", 0);
    }
}

/// @notice The same with three seat pages and indices of two bytes.
contract WideQuorumTest is QuorumRules {
    function setUp() public override {
        super.setUp();
        seats = 300;
        joinMany(300, 1);
        stake(uint256(keccak256("powers")));
    }

    function testFuzz_verifyQuorum_HoldsInWideTables(uint256 seed, uint256 signers) public {
        // Mostly signers, mostly not signers, or any.
        if (seed % 3 == 0) signers |= uint256(keccak256(abi.encode(signers)));
        if (seed % 3 == 1) signers &= uint256(keccak256(abi.encode(signers)));
        checkStrictAndExclusive(seed, signers);
    }

    function testFuzz_verifyQuorum_NamesTheFirstWrongIndexOfTwoBytes(bytes memory indices, uint256 start, bool sorted)
        public
        view
    {
        if (sorted) {
            // Steps instead of numbers: all in order, and only where they come to.
            uint256 at = start % 100;
            for (uint256 i = 0; i + 1 < indices.length; i += 2) {
                at += 1 + uint8(indices[i]) % 30;
                (indices[i], indices[i + 1]) = (bytes1(uint8(at >> 8)), bytes1(uint8(at)));
            }
        }
        checkFirstWrongIndex(indices, start % 2 == 0);
    }

    function test_verifyQuorum_TakesNoOddLength() public {
        bytes memory signature = sign(1);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndicesLength.selector, 3));
        tables.verifyQuorum(DIGEST, epoch, 0, true, signature, hex"000000");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndicesLength.selector, 1));
        tables.shareOf(epoch, 0, true, hex"00", 0);
    }

    function test_verifyVote_ReachesTheLastSeat() public {
        bytes memory signature = sign(secretOf(300));
        assertEq(tables.verifyVote(DIGEST, epoch, 299, signature), accountOf(300), "last");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndexOutOfRange.selector, 0, 300, 300));
        tables.verifyVote(DIGEST, epoch, 300, signature);
    }

    function test_shareOf_ReachesTheLastSeat() public {
        tables.setPower(accountOf(300), 77, true);
        epoch = roll();
        (address operator, uint256 power, uint256 signed) = tables.shareOf(epoch, 0, false, hex"012b", 299);
        assertEq(operator, accountOf(300), "operator");
        assertEq(power, 77, "power");
        assertEq(signed, 77, "signed");
    }
}
