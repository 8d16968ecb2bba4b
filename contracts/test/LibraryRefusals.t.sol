// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {BLS12381} from "../src/libraries/BLS12381.sol";
import {CodePage} from "../src/libraries/CodePage.sol";
import {OperatorTable} from "../src/libraries/OperatorTable.sol";
import {Base} from "./Base.sol";

/// @notice What the libraries refuse though their callers never bring it about: a precompile that answers wrongly, a page
/// that cannot be created, memory that is taken. Branches: tree/libraries.tree.
contract LibraryRefusalsTest is Base {
    // --- as a caller of its own, so that a revert can be expected -------------------------------------------------------

    function addG1(bytes memory pair) external view {
        uint256 position;
        assembly ("memory-safe") {
            position := add(pair, 32)
        }
        BLS12381.addG1(position, position);
    }

    function requirePrecompiles() external view {
        BLS12381.requirePrecompiles();
    }

    function writePage() external returns (address) {
        return CodePage.write("data");
    }

    function openBehind(uint256 size) external view {
        bytes memory taken = new bytes(size);
        assertEq(taken.length, size, "memory in use");
        OperatorTable.open(address(this), true);
    }

    // --- tests ----------------------------------------------------------------------------------------------------------

    function _missing(uint160 precompile) private pure returns (bytes memory) {
        return abi.encodeWithSelector(BLS12381.PrecompileMissing.selector, address(precompile));
    }

    function test_addG1_RevertsForWhatAreNoPoints() public {
        bytes memory pair = new bytes(256);
        pair[255] = 0x01; // (0, 1) is not on the curve
        vm.expectRevert(_missing(0x0b));
        this.addG1{gas: 1_000_000}(pair);
        this.addG1(new bytes(256)); // nothing and nothing is nothing
    }

    function test_requirePrecompiles_RevertsForAPairingThatIsNeverOne() public {
        this.requirePrecompiles();
        vm.mockCall(address(0x0f), "", abi.encode(0));
        vm.expectRevert(_missing(0x0f));
        this.requirePrecompiles();
    }

    function test_requirePrecompiles_RevertsForAPairingThatIsAlwaysOne() public {
        vm.mockCall(address(0x0f), "", abi.encode(1));
        vm.expectRevert(_missing(0x0f));
        this.requirePrecompiles();
    }

    function test_requirePrecompiles_RevertsForAnAdditionThatIsNone() public {
        bytes memory wrong = new bytes(256);
        wrong[255] = 0x01;
        vm.mockCall(address(0x0d), "", wrong);
        vm.expectRevert(_missing(0x0d));
        this.requirePrecompiles();
    }

    /// An account whose nonce is at its end creates nothing.
    function test_write_RevertsWhereNothingIsCreated() public {
        assertTrue(this.writePage().code.length == 5, "a page");
        vm.setNonce(address(this), type(uint64).max);
        vm.expectRevert(abi.encodeWithSelector(CodePage.PageNotCreated.selector));
        this.writePage();
    }

    function test_open_RevertsWhereMemoryIsTaken() public {
        vm.expectPartialRevert(OperatorTable.FrameTaken.selector);
        this.openBehind(256);
    }
}
