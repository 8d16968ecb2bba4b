// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Keys} from "./Keys.sol";
import {Network} from "./Network.sol";

/// @notice The quorum rule against a model of it, with real signatures. Branches: tree/verifyQuorum.tree.
contract QuorumTest is Network {
    uint256 private constant SIZE = 6;
    uint256 private constant ALL = (1 << SIZE) - 1;
    bytes32 private constant DIGEST = keccak256("digest");

    uint256[SIZE] private powers;
    uint256 private total;
    uint32 private epoch;

    function setUp() public override {
        super.setUp();
        for (uint256 id = 1; id <= SIZE; ++id) {
            join(id, ATTESTER, MINIMUM_STAKE);
        }
        _stake(0);
    }

    /// @dev Adds to the stakes and rolls. Powers are small multiples of one unit, so that exact thirds come up often.
    function _stake(uint256 seed) private {
        total = 0;
        for (uint256 i = 0; i < SIZE; ++i) {
            uint256 more = (seed >> 8 * i) % 6 * MINIMUM_STAKE;
            vm.deal(accountOf(i + 1), more);
            vm.prank(accountOf(i + 1));
            registry.addStake{value: more}();
            powers[i] = (MINIMUM_STAKE + more) / 1 gwei;
            total += powers[i];
        }
        epoch = roll();
    }

    function _powerOf(uint256 signers) private view returns (uint256 power) {
        for (uint256 i = 0; i < SIZE; ++i) {
            if (signers >> i & 1 == 1) power += powers[i];
        }
    }

    /// @dev Whether the registry accepts an honest signature by `signers`; it has to say the right power, or the right
    /// error.
    function _isAccepted(bool isApproval, uint256 signers) private view returns (bool) {
        (bytes memory signature, bytes memory indices) = vote(DIGEST, epoch, isApproval, signers);
        uint256 expected = _powerOf(signers);
        try registry.verifyQuorum(DIGEST, epoch, isApproval, signature, indices) returns (uint256 power) {
            assertEq(power, expected, "power");
            return true;
        } catch (bytes memory reason) {
            bytes memory refusal =
                abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, expected, total, isApproval);
            assertEq(reason, refusal, "reason");
            return false;
        }
    }

    function testFuzz_verifyQuorum_IsStrictAndExclusive(uint256 seed, uint256 signers) public {
        _stake(seed);
        signers &= ALL;
        bool isApproved = _isAccepted(true, signers);
        bool isRejected = _isAccepted(false, ALL ^ signers);
        assertTrue(isApproved == (3 * _powerOf(signers) > 2 * total), "approves above two thirds alone");
        assertTrue(isRejected == (3 * _powerOf(ALL ^ signers) > total), "rejects above one third alone");
        assertTrue(!(isApproved && isRejected), "never both, unless somebody votes twice");
    }

    function testFuzz_verifyQuorum_NamesTheFirstWrongIndex(bytes memory indices, bool isApproval) public {
        bytes memory refusal = _indexError(indices);
        bytes memory signature = Keys.sign(1, DIGEST, BLS12381.SIGNATURE_TAG);
        (bool done, bytes memory answer) = address(registry)
            .call(abi.encodeCall(registry.verifyQuorum, (DIGEST, epoch, isApproval, signature, indices)));
        assertTrue(!done, "the signature is nobody's");
        if (refusal.length != 0) {
            assertEq(answer, refusal, "the first wrong index");
        } else {
            bytes4 selector = bytes4(answer);
            assertTrue(
                selector == IQuorumVerifier.QuorumNotReached.selector
                    || selector == IQuorumVerifier.SignatureMismatch.selector,
                "the indices are in order"
            );
        }
    }

    function _indexError(bytes memory indices) private pure returns (bytes memory) {
        for (uint256 i = 0; i < indices.length; ++i) {
            uint8 index = uint8(indices[i]);
            if (index >= SIZE) {
                return abi.encodeWithSelector(IQuorumVerifier.IndexOutOfRange.selector, i, index, SIZE);
            }
            if (i > 0 && index == uint8(indices[i - 1])) {
                return abi.encodeWithSelector(IQuorumVerifier.IndexDuplicate.selector, i, index);
            }
            if (i > 0 && index < uint8(indices[i - 1])) {
                return abi.encodeWithSelector(IQuorumVerifier.IndicesUnsorted.selector, i, index);
            }
        }
        return "";
    }

    function testFuzz_verifyQuorum_TakesNoIndicesButTheSigners(uint256 signers, uint256 claimed, bool isApproval)
        public
        view
    {
        signers &= ALL;
        claimed &= ALL;
        (bytes memory signature,) = vote(DIGEST, epoch, isApproval, signers);
        (, bytes memory indices) = vote(DIGEST, epoch, isApproval, claimed);
        try registry.verifyQuorum(DIGEST, epoch, isApproval, signature, indices) {
            assertEq(signers, claimed, "who is claimed is who signed");
        } catch {}
    }

    function testFuzz_verifyQuorum_TakesNoOtherSignature(uint256 position, uint8 flip, bytes32 otherDigest) public {
        if (flip == 0) flip = 1;
        (bytes memory signature, bytes memory indices) = vote(DIGEST, epoch, true, ALL);
        if (otherDigest != DIGEST) {
            vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, otherDigest));
            registry.verifyQuorum(otherDigest, epoch, true, signature, indices);
        }
        position %= signature.length;
        signature[position] = bytes1(uint8(signature[position]) ^ flip);
        vm.expectRevert();
        registry.verifyQuorum(DIGEST, epoch, true, signature, indices);
    }

    function test_verifyQuorum_LosesABoundedAmountOfGasToAMalformedPoint() public {
        bytes memory malformed = new bytes(96);
        malformed[95] = 0x01;
        uint256 before = gasleft();
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.MalformedSignature.selector, malformed));
        registry.verifyQuorum(DIGEST, epoch, true, malformed, "");
        assertTrue(before - gasleft() < 1_100_000, "not all that was there");
    }
}
