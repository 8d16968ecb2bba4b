// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title Content identifiers (protocol §5)
library Cids {
    bytes32 private constant ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";
    /// CIDv1, raw, sha2-256, 32 bytes.
    bytes4 private constant RAW_PREFIX = 0x01551220;
    /// "b", then 288 bits in base32.
    uint256 private constant CHARACTERS = 59;

    /// @dev The one canonical text of a raw block's CID. Another spelling of it names nothing to any node, so texts can
    /// be compared.
    function ofRawBlock(bytes32 sha256Digest) internal pure returns (bytes memory text) {
        bytes memory data = abi.encodePacked(RAW_PREFIX, sha256Digest);
        text = new bytes(CHARACTERS);
        text[0] = "b";
        uint256 position = 1;
        uint256 buffer = 0;
        uint256 bits = 0;
        for (uint256 i = 0; i < data.length; ++i) {
            // Only the low `bits` (at most 4) of the old buffer still count; what is above them is never read.
            buffer = (buffer & 0x1f) << 8 | uint8(data[i]);
            for (bits += 8; bits >= 5; ++position) {
                bits -= 5;
                text[position] = ALPHABET[buffer >> bits & 0x1f];
            }
        }
        // 288 bits are 57 characters and 3 bits.
        text[position] = ALPHABET[buffer << 2 & 0x1f];
    }
}
