// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ProfilePage} from "../src/libraries/ProfilePage.sol";
import {Base} from "./Base.sol";

/// @notice Pages found by number. Branches: tree/readOperators.tree.
contract ProfilePageTest is Base {
    address private constant OPERATOR = address(0x1234567890123456789012345678901234567890);
    bytes32 private constant PEER_KEY = keccak256("peer key");

    Writer private writer;

    function setUp() public {
        writer = new Writer();
    }

    function test_write_FindsPagesOfEveryNumber() public {
        // On both sides of each length that a nonce has in RLP; write asserts that the page is where it is looked for.
        uint32[10] memory numbers = [1, 127, 128, 255, 256, 65_535, 65_536, 16_777_215, 16_777_216, type(uint32).max];
        for (uint256 i = 0; i < numbers.length; ++i) {
            vm.setNonce(address(writer), numbers[i]);
            writer.write(numbers[i], OPERATOR, PEER_KEY, vm.toString(i), "gateway");
        }
        for (uint256 i = 0; i < numbers.length; ++i) {
            (bytes32 peerKey, string memory p2pAddress, string memory gatewayUrl) = writer.read(numbers[i]);
            assertEq(peerKey, PEER_KEY, "peer key");
            assertEq(bytes(p2pAddress), bytes(vm.toString(i)), "p2p address");
            assertEq(bytes(gatewayUrl), "gateway", "gateway");
            assertEq(writer.operatorOf(numbers[i]), OPERATOR, "operator");
        }
    }

    function test_write_RefusesANumberThatIsNotTheCount() public {
        bytes memory panic = abi.encodeWithSignature("Panic(uint256)", 0x01);
        vm.expectRevert(panic);
        writer.write(2, OPERATOR, PEER_KEY, "", "");
        writer.write(1, OPERATOR, PEER_KEY, "", "");
        vm.expectRevert(panic);
        writer.write(1, OPERATOR, PEER_KEY, "", "");
    }

    function testFuzz_write_KeepsWhatItIsGiven(
        address operator,
        bytes32 peerKey,
        string memory p2pAddress,
        string memory gatewayUrl
    ) public {
        writer.write(1, operator, peerKey, p2pAddress, gatewayUrl);
        (bytes32 readKey, string memory readAddress, string memory readUrl) = writer.read(1);
        assertEq(writer.operatorOf(1), operator, "operator");
        assertEq(readKey, peerKey, "peer key");
        assertEq(bytes(readAddress), bytes(p2pAddress), "p2p address");
        assertEq(bytes(readUrl), bytes(gatewayUrl), "gateway");
    }
}

contract Writer {
    function write(uint32 number, address operator, bytes32 peerKey, string calldata p2p, string calldata gateway)
        external
    {
        ProfilePage.write(number, operator, peerKey, p2p, gateway);
    }

    function read(uint32 number) external view returns (bytes32, string memory, string memory) {
        return ProfilePage.read(number);
    }

    function operatorOf(uint32 number) external view returns (address) {
        return ProfilePage.operatorOf(number);
    }
}
