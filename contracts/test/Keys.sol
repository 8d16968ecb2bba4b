// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {BLS12381} from "../src/libraries/BLS12381.sol";

/// @title BLS keys and signatures inside the EVM, by the multiplication precompiles
/// @notice The signature by the sum of some secrets is the sum of their signatures, so an aggregate is one call.
library Keys {
    uint256 internal constant ORDER = 0x73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001;
    address private constant G1_ADD = address(0x0b);
    address private constant G1_MULTIPLY = address(0x0c);
    address private constant G2_MULTIPLY = address(0x0e);

    /// @dev Packed G2 point, 192 bytes.
    function publicKey(uint256 secret) internal view returns (bytes memory packed) {
        bytes memory input = new bytes(288);
        BLS12381.storeGenerator(_position(input));
        bytes memory point = _multiply(G2_MULTIPLY, input, secret);
        packed = new bytes(192);
        BLS12381.packG2(_position(point), _position(packed));
    }

    /// @dev Packed G1 point, 96 bytes; infinity for secret 0.
    function sign(uint256 secret, bytes32 digest, bytes32 tag) internal view returns (bytes memory packed) {
        bytes memory input = new bytes(160);
        bytes memory scratch = new bytes(512);
        BLS12381.hashToG1(digest, tag, _position(input), _position(scratch));
        bytes memory point = _multiply(G1_MULTIPLY, input, secret);
        packed = new bytes(96);
        (uint256 source, uint256 target) = (_position(point), _position(packed));
        assembly ("memory-safe") {
            mcopy(target, add(source, 16), 48)
            mcopy(add(target, 48), add(source, 80), 48)
        }
    }

    /// @dev The sum of two packed G1 points.
    function add(bytes memory left, bytes memory right) internal view returns (bytes memory packed) {
        bytes memory input = new bytes(256);
        for (uint256 i = 0; i < 48; ++i) {
            (input[16 + i], input[80 + i]) = (left[i], left[48 + i]);
            (input[144 + i], input[208 + i]) = (right[i], right[48 + i]);
        }
        (bool done, bytes memory sum) = G1_ADD.staticcall(input);
        require(done && sum.length == 128, "addition precompile");
        packed = new bytes(96);
        for (uint256 i = 0; i < 48; ++i) {
            (packed[i], packed[48 + i]) = (sum[16 + i], sum[80 + i]);
        }
    }

    /// @dev `input` is a padded point with room for the scalar behind it.
    function _multiply(address precompile, bytes memory input, uint256 secret)
        private
        view
        returns (bytes memory point)
    {
        assembly ("memory-safe") {
            mstore(add(input, mload(input)), secret)
        }
        bool done;
        (done, point) = precompile.staticcall(input);
        require(done && point.length + 32 == input.length, "multiplication precompile");
    }

    function _position(bytes memory data) private pure returns (uint256 position) {
        assembly ("memory-safe") {
            position := add(data, 32)
        }
    }
}
