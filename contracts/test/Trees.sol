// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @notice Merkle trees as settled batches have them.
library Trees {
    /// @dev A tree whose leaf i lies under root by i hashes from the right end; a proof needs no balance.
    function treeOf(bytes32[] memory leaves) internal pure returns (bytes32 root, bytes32[][] memory paths) {
        uint256 size = leaves.length;
        paths = new bytes32[][](size);
        root = leaves[0];
        bytes32[] memory roots = new bytes32[](size);
        roots[0] = root;
        for (uint256 i = 1; i < size; ++i) {
            root = root < leaves[i] ? keccak256(abi.encode(root, leaves[i])) : keccak256(abi.encode(leaves[i], root));
            roots[i] = root;
        }
        for (uint256 i = 0; i < size; ++i) {
            bool isFirst = i == 0;
            paths[i] = new bytes32[](size - (isFirst ? 1 : i));
            uint256 next = 0;
            if (!isFirst) paths[i][next++] = roots[i - 1];
            for (uint256 j = i + 1; j < size; ++j) {
                paths[i][next++] = leaves[j];
            }
        }
    }
}
