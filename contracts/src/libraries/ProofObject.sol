// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title Which model a proof object names (protocol §5)
/// @notice Reads canonical JSON as far as it must: an object's member `"modelHash":"0x…"`, at the object's own level. The
/// same bytes inside a string or a nested object are data, which a requester's prompt may have put there.
library ProofObject {
    bytes15 private constant MEMBER_START = '"modelHash":"0x';
    uint256 private constant DIGITS = 64;
    /// The member's start, its digits and the closing quote.
    uint256 private constant MEMBER_SIZE = 15 + DIGITS + 1;

    /// @dev Returns the model hash that the member starting at `offset` gives; `isFound` is false if no such member
    /// starts there. Costs gas by `offset`.
    function modelHashAt(bytes calldata proof, uint256 offset) internal pure returns (bool isFound, bytes32 modelHash) {
        if (proof.length < MEMBER_SIZE || offset > proof.length - MEMBER_SIZE) return (false, 0);
        if (bytes15(_wordAt(proof, offset)) != MEMBER_START || !_isMember(proof, offset)) return (false, 0);
        if (_wordAt(proof, offset + MEMBER_SIZE - 1)[0] != '"') return (false, 0);
        return _hashAt(proof, offset + 15);
    }

    /// @dev Whether a member of the outermost object starts at `offset`, as far as the bytes before it tell.
    function _isMember(bytes calldata json, uint256 offset) private pure returns (bool) {
        if (offset == 0 || _wordAt(json, 0)[0] != "{") return false;
        uint256 depth = 1;
        bool isInString = false;
        bytes1 character = "{";
        for (uint256 i = 1; i < offset; ++i) {
            character = _wordAt(json, i)[0];
            if (character == '"') {
                isInString = !isInString;
            } else if (isInString) {
                if (character == "\\") ++i; // what it escapes, a quote perhaps
            } else if (character == "{" || character == "[") {
                ++depth;
            } else if (character == "}" || character == "]") {
                // Behind the object's end there is no proof object.
                if (--depth == 0) return false;
            }
        }
        return !isInString && depth == 1 && (character == "{" || character == ",");
    }

    /// @dev Lower-case digits only: another spelling is not canonical.
    function _hashAt(bytes calldata json, uint256 offset) private pure returns (bool isHash, bytes32) {
        uint256 value = 0;
        for (uint256 i = offset; i < offset + DIGITS; ++i) {
            uint256 digit = uint8(_wordAt(json, i)[0]);
            if (digit >= 0x30 && digit <= 0x39) digit -= 0x30;
            else if (digit >= 0x61 && digit <= 0x66) digit -= 0x61 - 10;
            else return (false, 0);
            value = value << 4 | digit;
        }
        return (true, bytes32(value));
    }

    /// @dev The 32 bytes from `position` on, which the caller has checked; indexing would check it for every byte.
    function _wordAt(bytes calldata data, uint256 position) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := calldataload(add(data.offset, position))
        }
    }
}
