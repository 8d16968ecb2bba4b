// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IFeeCalculator} from "../src/interfaces/IFeeCalculator.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {PlainToken} from "./Tokens.sol";

// --- requesters that are contracts -----------------------------------------------------------------------------------

/// @notice A contract with one key; it can disown what the key signed.
contract Wallet is IERC1271 {
    address internal immutable key;
    bool internal disowns;

    constructor(address key_) {
        key = key_;
    }

    function disown() external {
        disowns = true;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        (address signer,,) = ECDSA.tryRecoverCalldata(hash, signature);
        return signer == key && !disowns ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }
}

/// @notice Calls back whatever it was told to when it is asked for a signature, or paid; then agrees.
contract Reentrant {
    address public target;
    bytes public message;
    uint256 public value;
    bool public wasCalled;
    bool public succeeded;
    bytes public answer;

    function prepare(address target_, bytes calldata message_, uint256 value_) external payable {
        (target, message, value) = (target_, message_, value_);
    }

    function act(address target_, bytes calldata message_) external payable returns (bytes memory) {
        (bool done, bytes memory result) = target_.call{value: msg.value}(message_);
        require(done, "act");
        return result;
    }

    /// @dev What a static call runs into; nothing can be noted.
    function isValidSignature(bytes32, bytes calldata) external returns (bytes4) {
        (bool done,) = target.call(message);
        return done ? bytes4(0xffffffff) : IERC1271.isValidSignature.selector;
    }

    receive() external payable {
        onMoney();
    }

    function onMoney() public {
        if (target == address(0) || wasCalled) return;
        wasCalled = true;
        (succeeded, answer) = target.call{value: value}(message);
    }
}

/// @notice Takes all the gas it gets to answer nothing.
contract Burner {
    fallback() external {
        assembly ("memory-safe") {
            invalid()
        }
    }
}

/// @notice Takes no coin.
contract Refuser {
    function act(address target, bytes calldata message) external payable {
        (bool done, bytes memory result) = target.call{value: msg.value}(message);
        if (done) return;
        assembly ("memory-safe") {
            revert(add(result, 32), mload(result))
        }
    }
}

// --- fee calculators -------------------------------------------------------------------------------------------------

/// @notice Shares of what the request offers, in percent.
contract ShareCalculator is IFeeCalculator {
    uint256 private immutable performer;
    uint256 private immutable attesters;
    uint256 private immutable aggregator;

    constructor(uint256 performer_, uint256 attesters_, uint256 aggregator_) {
        (performer, attesters, aggregator) = (performer_, attesters_, aggregator_);
    }

    function calculateFees(IAttestationCenter.TaskRequest calldata request)
        external
        view
        returns (IAttestationCenter.Fees memory)
    {
        return IAttestationCenter.Fees(
            uint80(request.fee * performer / 100),
            uint80(request.fee * attesters / 100),
            uint80(request.fee * aggregator / 100)
        );
    }
}

/// @notice Asks for one base unit more than the request offers.
contract GreedyCalculator is IFeeCalculator {
    function calculateFees(IAttestationCenter.TaskRequest calldata request)
        external
        pure
        returns (IAttestationCenter.Fees memory)
    {
        return IAttestationCenter.Fees(uint80(request.fee - 2), 2, 1);
    }
}

/// @notice Answers bytes as they are.
contract RawCalculator {
    bytes private raw;

    constructor(bytes memory raw_) {
        raw = raw_;
    }

    fallback() external {
        bytes memory answer = raw;
        assembly ("memory-safe") {
            return(add(answer, 32), mload(answer))
        }
    }
}

/// @notice Answers as many zeros as its gas pays for.
contract FloodCalculator {
    fallback() external {
        assembly ("memory-safe") {
            return(0, 1000000)
        }
    }
}

contract RevertingCalculator is IFeeCalculator {
    /// With what looks like fees.
    error Refused(uint256, uint256, uint256);

    function calculateFees(IAttestationCenter.TaskRequest calldata)
        external
        pure
        returns (IAttestationCenter.Fees memory)
    {
        revert Refused(1, 1, 1);
    }
}

/// @notice Wants to change something.
contract WritingCalculator {
    uint256 private count;

    fallback() external {
        ++count;
        assembly ("memory-safe") {
            return(0, 96)
        }
    }
}

/// @notice Honest, and needs nearly all the gas it is promised.
contract DearCalculator is IFeeCalculator {
    function calculateFees(IAttestationCenter.TaskRequest calldata request)
        external
        view
        returns (IAttestationCenter.Fees memory)
    {
        uint256 before = gasleft();
        while (before - gasleft() < 90_000) {}
        return IAttestationCenter.Fees(uint80(request.fee / 2), 7, 8);
    }
}

/// @notice Tries to be paid twice.
contract ReentrantCalculator {
    ITaskEscrow private escrow;
    bytes private message;

    function prepare(ITaskEscrow escrow_, bytes calldata message_) external {
        (escrow, message) = (escrow_, message_);
    }

    function calculateFees(IAttestationCenter.TaskRequest calldata) external returns (IAttestationCenter.Fees memory) {
        (bool done,) = address(escrow).call{gas: 50_000}(message);
        return IAttestationCenter.Fees(done ? 1 : 0, 2, 3);
    }
}

// --- tokens ----------------------------------------------------------------------------------------------------------

/// @notice Tells who sends before a transfer, and who receives after it, as ERC-777 does.
contract HookToken is PlainToken {
    mapping(address => bool) private listens;

    function listen() external {
        listens[msg.sender] = true;
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (listens[from]) Reentrant(payable(from)).onMoney();
        super._update(from, to, amount);
        if (listens[to]) Reentrant(payable(to)).onMoney();
    }
}

/// @notice Returns false while it is frozen, where others revert.
contract FreezableToken is PlainToken {
    bool public isFrozen;

    function freeze(bool isFrozen_) external {
        isFrozen = isFrozen_;
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        return !isFrozen && super.transfer(to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        return !isFrozen && super.transferFrom(from, to, amount);
    }
}
