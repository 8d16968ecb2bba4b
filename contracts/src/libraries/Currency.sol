// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @title The chain's own coin (address zero) or one ERC-20, moved alike
/// @notice Tokens that rebase are not supported: their balances change without a transfer.
library Currency {
    using SafeERC20 for IERC20;

    /// The transaction's value is not the amount (coin), or not zero (token).
    error WrongValue(uint256 value, uint256 expected);
    error TransferFailed(address to, uint256 amount);

    /// @dev Takes `amount` from the caller; returns what arrived, which is less for a token that takes a fee. To be
    /// called before anything is credited.
    function take(address token, uint256 amount) internal returns (uint256 received) {
        if (token == address(0)) {
            if (msg.value != amount) revert WrongValue(msg.value, amount);
            return amount;
        }
        if (msg.value != 0) revert WrongValue(msg.value, 0);
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        return IERC20(token).balanceOf(address(this)) - before;
    }

    /// @dev Last in its function, after all state is written.
    function pay(address token, address to, uint256 amount) internal {
        if (token == address(0)) {
            (bool isPaid,) = to.call{value: amount}("");
            if (!isPaid) revert TransferFailed(to, amount);
        } else {
            IERC20(token).safeTransfer(to, amount);
        }
    }
}
