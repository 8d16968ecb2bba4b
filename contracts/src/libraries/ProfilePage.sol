// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {CodePage} from "./CodePage.sol";

/// @title What nodes read of an operator: address, peer key, endpoints, in one page of code
/// @notice Pages are numbered from 1 in the order in which a contract writes them. A contract's n-th creation has an
/// address that follows from n, so four bytes find a page, and eight such numbers share a slot.
/// @dev For contracts that create nothing but these pages.
library ProfilePage {
    /// operator 20 ‖ peer key 32 ‖ length of the p2p address 2 ‖ p2p address ‖ gateway's URL
    uint256 private constant HEADER = 54;

    /// @dev `number` has to be the count of this contract's creations, this one included. The assertion fails on a
    /// chain that derives addresses by another rule.
    function write(
        uint32 number,
        address operator,
        bytes32 peerKey,
        string calldata p2pAddress,
        string calldata gatewayUrl
    ) internal {
        uint16 length = uint16(bytes(p2pAddress).length);
        assert(CodePage.write(abi.encodePacked(operator, peerKey, length, p2pAddress, gatewayUrl)) == addressOf(number));
    }

    function read(uint32 number)
        internal
        view
        returns (bytes32 peerKey, string memory p2pAddress, string memory gatewayUrl)
    {
        address page = addressOf(number);
        bytes memory header = CodePage.readBytes(page, 20, 34);
        uint256 length;
        assembly ("memory-safe") {
            peerKey := mload(add(header, 32))
            length := shr(240, mload(add(header, 64)))
        }
        p2pAddress = string(CodePage.readBytes(page, HEADER, length));
        uint256 rest = page.code.length - CodePage.PREFIX - HEADER - length;
        gatewayUrl = string(CodePage.readBytes(page, HEADER + length, rest));
    }

    function operatorOf(uint32 number) internal view returns (address) {
        return address(bytes20(CodePage.readBytes(addressOf(number), 0, 20)));
    }

    /// @dev Where the calling contract's `number`-th creation lies: keccak256 of the RLP list of creator and nonce,
    /// where a number below 128 is its own encoding and a longer one has its length before it.
    function addressOf(uint32 number) internal view returns (address) {
        bytes memory nonce;
        if (number < 0x80) nonce = abi.encodePacked(uint8(number));
        else if (number <= type(uint8).max) nonce = abi.encodePacked(hex"81", uint8(number));
        else if (number <= type(uint16).max) nonce = abi.encodePacked(hex"82", uint16(number));
        else if (number <= type(uint24).max) nonce = abi.encodePacked(hex"83", uint24(number));
        else nonce = abi.encodePacked(hex"84", number);
        bytes memory list = abi.encodePacked(uint8(0xc0 + 21 + nonce.length), hex"94", address(this), nonce);
        return address(uint160(uint256(keccak256(list))));
    }
}
