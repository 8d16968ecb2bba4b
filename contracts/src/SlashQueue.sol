// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {IAttestationCenter} from "./interfaces/IAttestationCenter.sol";
import {IOperatorSource} from "./interfaces/IOperatorSource.sol";
import {IQuorumVerifier} from "./interfaces/IQuorumVerifier.sol";
import {ISlashingCourt} from "./interfaces/ISlashingCourt.sol";
import {Currency} from "./libraries/Currency.sol";
import {Digests} from "./libraries/Digests.sol";

/// @title Slashes that wait, and what becomes of them
/// @notice Each is executed or cancelled once, and holds its operator's exit until then. `totalOwed` never exceeds what
/// lies here. See ISlashingCourt.
abstract contract SlashQueue is ISlashingCourt, EIP712 {
    uint256 private constant WAD = 1e18;
    /// A mistyped duration must not hold stakes for years.
    uint256 private constant MAX_DISPUTE = 365 days;

    /// @inheritdoc ISlashingCourt
    IAttestationCenter public immutable center;
    /// @inheritdoc ISlashingCourt
    IOperatorSource public immutable operators;
    /// @inheritdoc ISlashingCourt
    IQuorumVerifier public immutable verifier;
    /// @inheritdoc ISlashingCourt
    address public immutable vault;
    /// @inheritdoc ISlashingCourt
    uint64 public immutable longestDispute;
    address private immutable _token;

    /// @inheritdoc ISlashingCourt
    uint256 public totalOwed;
    /// @inheritdoc ISlashingCourt
    mapping(address account => uint256 amount) public owedTo;
    mapping(bytes32 slashId => Slash) internal _slashes;
    mapping(bytes32 taskId => uint256 amount) private _compensated;

    constructor(IAttestationCenter center_, address vault_, uint64 longestDispute_) EIP712("ProofOfInference", "1") {
        center = center_;
        operators = center_.operators();
        verifier = center_.verifier();
        _token = operators.stakeToken();
        if (vault_ == address(0)) revert InvalidSetting("vault", 0);
        // A dispute longer than the exit would let the accused walk away first.
        if (longestDispute_ == 0 || longestDispute_ > MAX_DISPUTE || longestDispute_ > operators.unbondingSeconds()) {
            revert InvalidSetting("longestDispute", longestDispute_);
        }
        vault = vault_;
        longestDispute = longestDispute_;
    }

    /// @dev Slashed coin comes from the operators; what anybody else sends would be nobody's.
    receive() external payable {
        if (msg.sender != address(operators)) revert OnlyOperators(msg.sender);
    }

    // --- queueing and cancelling -------------------------------------------------------------------------------------

    /// @dev For evidence that the caller has checked. One offence on one task is one slash, however often it is shown.
    function _queue(Offence offence, bytes32 taskId, address operator, uint32 disputeWindow)
        internal
        returns (bytes32 slashId)
    {
        slashId = slashIdOf(offence, taskId, operator);
        Slash storage slash = _slashes[slashId];
        if (slash.state != State.NONE) revert AlreadyQueued(slashId);
        slash.taskId = taskId;
        slash.operator = operator;
        slash.offence = offence;
        slash.state = State.WAITING;
        slash.executableAt = uint64(block.timestamp) + disputeWindow;
        emit SlashQueued(slashId, taskId, operator, offence, slash.executableAt);
        operators.holdExit(operator);
    }

    /// @inheritdoc ISlashingCourt
    function cancelSlash(bytes32 slashId, uint32 epoch, bytes calldata signature, bytes calldata missing) external {
        Slash storage slash = _waiting(slashId);
        verifier.verifyQuorum(cancelDigest(slashId), epoch, 0, true, signature, missing);
        _cancel(slashId, slash);
    }

    function _cancel(bytes32 slashId, Slash storage slash) internal {
        slash.state = State.CANCELLED;
        emit SlashCancelled(slashId, slash.operator);
        operators.releaseExit(slash.operator);
    }

    function _waiting(bytes32 slashId) internal view returns (Slash storage slash) {
        slash = _slashes[slashId];
        if (slash.state != State.WAITING) revert NotWaiting(slashId, slash.state);
    }

    // --- whom the task harmed ----------------------------------------------------------------------------------------

    /// @inheritdoc ISlashingCourt
    function nameHarmed(bytes32 slashId, IAttestationCenter.TaskRequest calldata request) external {
        Slash storage slash = _waiting(slashId);
        if (slash.requester != address(0)) revert HarmedAlreadyNamed(slashId);
        if (_taskIdOf(request) != slash.taskId) revert RequestMismatch(slash.taskId);
        _name(slashId, request);
    }

    /// @dev Address zero never signed a request; what is owed to it would be lost. The fee is the requester's own word: an
    /// operator that is its own requester could buy back its whole stake with a large one, so the definition's is the cap.
    function _name(bytes32 slashId, IAttestationCenter.TaskRequest calldata request) internal {
        if (request.requester == address(0)) revert RequestMismatch(_slashes[slashId].taskId);
        IAttestationCenter.Fees memory fees = center.taskDefinition(request.taskDefinitionId).terms.fees;
        uint256 price = uint256(fees.performer) + fees.attesters + fees.aggregator;
        uint96 value = uint96(request.fee < price ? request.fee : price);
        (_slashes[slashId].requester, _slashes[slashId].value) = (request.requester, value);
        emit HarmedNamed(slashId, request.requester, value);
    }

    function _taskIdOf(IAttestationCenter.TaskRequest calldata request) internal view returns (bytes32) {
        return _centerDigest(Digests.hashTaskRequest(request));
    }

    /// @dev A digest in the center's domain. Asking the center for it would send all of the request or info there.
    function _centerDigest(bytes32 structHash) internal view returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(center.domainSeparator(), structHash);
    }

    // --- execution ---------------------------------------------------------------------------------------------------

    /// @inheritdoc ISlashingCourt
    function executeSlash(bytes32 slashId) external returns (uint256 amount) {
        Slash storage slash = _waiting(slashId);
        if (block.timestamp < slash.executableAt) revert SlashNotDue(slashId, slash.executableAt);
        if (slash.vetoDueAt != 0) revert VetoPending(slashId, slash.vetoDueAt);
        slash.state = State.EXECUTED;
        // A token with callbacks could come back here in the middle: the slash is over by then, nothing of it is
        // credited yet, and what is credited below is measured after it.
        amount = _arrived(operators.slash(slash.operator, gradeOf(slash.offence)));
        uint256 compensation = _compensate(slash, amount);
        owedTo[vault] += amount - compensation;
        totalOwed += amount;
        emit SlashExecuted(slashId, slash.taskId, slash.operator, amount, slash.requester, compensation);
    }

    /// @dev What of `amount` is really here and owed to nobody. Less for a token that takes a fee: reverting instead
    /// would hold the operator's exit for ever.
    function _arrived(uint256 amount) private view returns (uint256) {
        uint256 balance = _token == address(0) ? address(this).balance : IERC20(_token).balanceOf(address(this));
        uint256 free = balance > totalOwed ? balance - totalOwed : 0;
        return amount < free ? amount : free;
    }

    /// @dev All slashes of one task together give its requester no more than the task's value.
    function _compensate(Slash storage slash, uint256 amount) private returns (uint256 compensation) {
        uint256 left = slash.value > _compensated[slash.taskId] ? slash.value - _compensated[slash.taskId] : 0;
        compensation = amount < left ? amount : left;
        if (compensation == 0) return 0;
        _compensated[slash.taskId] += compensation;
        owedTo[slash.requester] += compensation;
    }

    /// @inheritdoc ISlashingCourt
    function pay(address account) external returns (uint256 amount) {
        amount = owedTo[account];
        if (amount == 0) revert NothingOwed(account);
        owedTo[account] = 0;
        totalOwed -= amount;
        emit Paid(account, amount);
        Currency.pay(_token, account, amount);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    /// @inheritdoc ISlashingCourt
    function slashIdOf(Offence offence, bytes32 taskId, address operator) public pure returns (bytes32) {
        return keccak256(abi.encode(offence, taskId, operator));
    }

    /// @inheritdoc ISlashingCourt
    function slashOf(bytes32 slashId) external view returns (Slash memory) {
        return _slashes[slashId];
    }

    /// @inheritdoc ISlashingCourt
    function gradeOf(Offence offence) public pure returns (uint256 wad) {
        if (offence == Offence.OUTLIER) return WAD / 100;
        if (offence == Offence.REJECTED_TASK || offence == Offence.MISSED_DEADLINE) return WAD / 10;
        return WAD;
    }

    /// @inheritdoc ISlashingCourt
    function cancelDigest(bytes32 slashId) public view returns (bytes32) {
        return _hashTypedDataV4(Digests.hashCancelSlash(slashId));
    }

    /// @inheritdoc ISlashingCourt
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }
}
