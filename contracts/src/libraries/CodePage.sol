// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title Write-once data as the code of a contract
/// @notice A cold page costs 2,600 gas however much of it is read, a cold slot 2,100 for 32 bytes.
/// @dev All reading of page contents stays behind this library and OperatorTable, so that slots can replace code if its
/// price changes.
library CodePage {
    /// The page is over what EIP-170 allows a contract.
    error PageTooLarge(uint256 size);
    error PageNotCreated();

    /// A leading STOP: who calls the page executes nothing of its data.
    uint256 internal constant PREFIX = 1;
    uint256 internal constant MAX_SIZE = 24_576 - PREFIX;

    function write(bytes memory data) internal returns (address page) {
        if (data.length > MAX_SIZE) revert PageTooLarge(data.length);
        // PUSH2 size · DUP1 · PUSH1 10 · RETURNDATASIZE · CODECOPY · RETURNDATASIZE · RETURN, then STOP and the data.
        bytes memory creation = abi.encodePacked(hex"61", uint16(data.length + PREFIX), hex"80600a3d393df300", data);
        assembly ("memory-safe") {
            page := create(0, add(creation, 32), mload(creation))
        }
        if (page == address(0)) revert PageNotCreated();
    }

    /// @dev Copies `size` bytes from `offset` on into memory at `target`; beyond the end there are zeros.
    function read(address page, uint256 offset, uint256 size, uint256 target) internal view {
        assembly ("memory-safe") {
            extcodecopy(page, target, add(offset, PREFIX), size)
        }
    }

    function readBytes(address page, uint256 offset, uint256 size) internal view returns (bytes memory data) {
        data = new bytes(size);
        uint256 target;
        assembly ("memory-safe") {
            target := add(data, 32)
        }
        read(page, offset, size, target);
    }
}
