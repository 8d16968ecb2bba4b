// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// An ERC-20 as it should be.
contract PlainToken is ERC20("Plain", "PLN") {
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// Keeps one part in a hundred of every transfer.
contract FeeToken is PlainToken {
    function _update(address from, address to, uint256 amount) internal override {
        uint256 fee = from == address(0) ? 0 : amount / 100;
        super._update(from, to, amount - fee);
        if (fee != 0) super._update(from, address(this), fee);
    }
}

/// Refuses to move nothing, as some do.
contract NoZeroToken is PlainToken {
    error NothingToMove();

    function _update(address from, address to, uint256 amount) internal override {
        if (amount == 0) revert NothingToMove();
        super._update(from, to, amount);
    }
}

/// Answers false instead of reverting, and moves nothing.
contract FalseToken is PlainToken {
    function transferFrom(address, address, uint256) public pure override returns (bool) {
        return false;
    }
}

/// Answers nothing, as some old tokens do.
contract SilentToken {
    mapping(address account => uint256) public balanceOf;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function transfer(address to, uint256 amount) external {
        _move(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) external {
        _move(from, to, amount);
    }

    function _move(address from, address to, uint256 amount) private {
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}

/// Calls a contract once in the middle of the next transfer, as tokens with hooks do.
contract CallingToken is PlainToken {
    address private _callee;
    bytes private _call;
    bool public isDone;
    bool public wasRefused;
    bytes public answer;

    function callNext(address callee, bytes calldata data) external {
        (_callee, _call) = (callee, data);
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (_callee == address(0) || from == address(0)) return;
        address callee = _callee;
        _callee = address(0);
        bool isAccepted;
        (isAccepted, answer) = callee.call(_call);
        wasRefused = !isAccepted;
        isDone = true;
    }
}
