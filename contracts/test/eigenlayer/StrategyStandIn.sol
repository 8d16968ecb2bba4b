// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @notice A token that gives itself to anybody.
contract StakedToken is ERC20("Staked", "STK") {
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// @notice Where deposits of one token lie; a share is a base unit of it.
contract StrategyStandIn {
    error OnlyStrategyManager(address caller);

    IERC20 public immutable underlyingToken;
    address public immutable strategyManager;

    constructor(IERC20 token, address strategyManager_) {
        (underlyingToken, strategyManager) = (token, strategyManager_);
    }

    function withdraw(address recipient, uint256 shares) external {
        if (msg.sender != strategyManager) revert OnlyStrategyManager(msg.sender);
        require(underlyingToken.transfer(recipient, shares), "transfer");
    }
}
