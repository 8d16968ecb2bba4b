// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {Governed} from "./Governed.sol";
import {IAttestationCenter} from "./interfaces/IAttestationCenter.sol";
import {IOperatorSource} from "./interfaces/IOperatorSource.sol";
import {IQuorumVerifier} from "./interfaces/IQuorumVerifier.sol";
import {ITaskEscrow} from "./interfaces/ITaskEscrow.sol";
import {Currency} from "./libraries/Currency.sol";
import {Digests} from "./libraries/Digests.sol";
import {FeeQuote} from "./libraries/FeeQuote.sol";

/// @title Fees: deposits, what is earned of them, and the attesters' pools (protocol §8.2)
/// @dev Foreign code runs in the middle of four functions: a token's hooks while a deposit is taken and while money goes
/// out, a receiver of coin, an ERC-1271 requester and a fee calculator. The latter two are static calls. Everything that
/// moves money is `nonReentrant` all the same: a deposit counts what arrived by the balance before and after, and one
/// inside another would be counted twice.
///
/// Nobody but its owner's signature moves a deposit, and no role moves anything.
contract TaskEscrow is ITaskEscrow, Governed, ReentrancyGuardTransient {
    using FeeQuote for IAttestationCenter.Fees;

    uint256 private constant MAX_REFUND_DELAY = 30 days;
    /// Room for the coin of any chain, and a deposit in one slot.
    uint256 private constant MAX_DEPOSIT = type(uint96).max;

    IAttestationCenter public immutable center;
    IOperatorSource public immutable operators;
    address public immutable token;
    uint64 public immutable refundDelay;
    IQuorumVerifier private immutable _verifier;

    /// Deposits, pools and what is earned, less what was paid: what all mappings below add up to.
    uint256 public held;
    /// `refunding` is never more than `balance`.
    mapping(address requester => mapping(address performer => Deposit)) private _deposits;
    /// Bit `nonce % 256` of word `nonce / 256`. Each performer's own: a requester that signs one nonce for two could
    /// have the dear task's nonce used up by a cheap one, and take its deposit back.
    mapping(address requester => mapping(address performer => mapping(uint256 word => uint256 bits))) private _paid;
    mapping(address operator => uint256) private _earned;
    mapping(bytes32 pool => uint256) private _pools;
    /// What each seat took of a pool so far.
    mapping(bytes32 pool => mapping(uint16 seat => uint256)) private _taken;

    constructor(IAttestationCenter center_, address token_, uint64 refundDelay_, address owner_, uint64 changeDelay_)
        Governed(owner_, changeDelay_)
    {
        if (address(center_).code.length == 0) revert InvalidSetting("center", uint160(address(center_)));
        if (token_ != address(0) && token_.code.length == 0) revert InvalidSetting("token", uint160(token_));
        if (refundDelay_ == 0 || refundDelay_ > MAX_REFUND_DELAY) revert InvalidSetting("refundDelay", refundDelay_);
        (center, token, refundDelay) = (center_, token_, refundDelay_);
        (operators, _verifier) = (center_.operators(), center_.verifier());
    }

    // --- deposits ----------------------------------------------------------------------------------------------------

    /// @inheritdoc ITaskEscrow
    function deposit(address requester, address performer, uint256 amount) external payable nonReentrant {
        if (block.timestamp < pausedUntil) revert DepositsPaused(pausedUntil);
        uint256 received = Currency.take(token, amount);
        Deposit storage to = _deposits[requester][performer];
        uint256 balance = to.balance + received;
        if (balance > MAX_DEPOSIT) revert DepositTooLarge(balance, MAX_DEPOSIT);
        to.balance = uint96(balance);
        held += received;
        emit Deposited(requester, performer, received);
    }

    /// @inheritdoc ITaskEscrow
    /// @dev More than there is means all of it: a performer who collects meanwhile must not make this revert.
    function startRefund(address performer, uint256 amount) external {
        Deposit storage from = _deposits[msg.sender][performer];
        if (amount > from.balance) amount = from.balance;
        if (amount == 0) revert NothingToRefund(msg.sender, performer);
        from.refunding = uint96(amount);
        from.refundableAt = uint64(block.timestamp) + refundDelay;
        emit RefundStarted(msg.sender, performer, amount, from.refundableAt);
    }

    /// @inheritdoc ITaskEscrow
    function refund(address performer) external nonReentrant returns (uint256 amount) {
        Deposit storage from = _deposits[msg.sender][performer];
        amount = from.refunding;
        if (amount == 0) revert NothingToRefund(msg.sender, performer);
        if (block.timestamp < from.refundableAt) revert RefundNotDue(from.refundableAt);
        _debit(msg.sender, performer, amount);
        (from.refunding, from.refundableAt) = (0, 0);
        held -= amount;
        emit Refunded(msg.sender, performer, amount);
        Currency.pay(token, msg.sender, amount);
    }

    /// @dev What was going to be refunded pays last, and is forgotten as far as it is spent: a later deposit must not
    /// be refundable at once by an old `startRefund`.
    function _debit(address requester, address performer, uint256 amount) private {
        Deposit storage from = _deposits[requester][performer];
        uint256 balance = from.balance;
        if (amount > balance) revert DepositTooSmall(requester, performer, balance, amount);
        balance -= amount;
        from.balance = uint96(balance);
        if (from.refunding > balance) from.refunding = uint96(balance);
    }

    // --- collecting --------------------------------------------------------------------------------------------------

    /// @inheritdoc ITaskEscrow
    function collect(Collection[] calldata tasks) external nonReentrant {
        bytes32 domainSeparator = center.domainSeparator();
        IAttestationCenter.TaskTerms memory terms;
        for (uint256 i = 0; i < tasks.length; ++i) {
            uint16 definition = tasks[i].request.taskDefinitionId;
            // A definition is a dozen slots; tasks of one kind come together.
            if (i == 0 || definition != tasks[i - 1].request.taskDefinitionId) {
                terms = center.taskDefinition(definition).terms;
            }
            bytes32 structHash = Digests.hashTaskRequest(tasks[i].request);
            _collect(tasks[i], MessageHashUtils.toTypedDataHash(domainSeparator, structHash), terms);
        }
    }

    /// @dev The settled verdict binds the task id, so the request that was signed; and epoch, set and indices, so the
    /// pool: who collects can choose neither.
    function _collect(Collection calldata task, bytes32 taskId, IAttestationCenter.TaskTerms memory terms) private {
        _useNonce(task.request.requester, task.request.performer, task.request.nonce);
        _requireSigned(task.request.requester, taskId, task.requesterSignature);
        address aggregator = _requireSettled(task, taskId, terms);
        IAttestationCenter.Fees memory fees = _feesOf(task.request, taskId, terms);
        uint256 toOthers = uint256(fees.attesters) + fees.aggregator;
        uint256 toPerformer = task.isApproved ? task.request.fee - toOthers : 0;

        bytes32 pool = _poolKey(task.epoch, terms.attesterSet, task.isApproved, task.indices);
        _debit(task.request.requester, task.request.performer, toPerformer + toOthers);
        _earned[task.request.performer] += toPerformer;
        _earned[aggregator] += fees.aggregator;
        _pools[pool] += fees.attesters;
        emit TaskPaid(taskId, task.request.requester, toPerformer, fees.attesters, aggregator, fees.aggregator);
    }

    function _useNonce(address requester, address performer, uint256 nonce) private {
        uint256 bit = 1 << (nonce & 0xff);
        uint256 bits = _paid[requester][performer][nonce >> 8];
        if (bits & bit != 0) revert AlreadyPaid(requester, performer, nonce);
        _paid[requester][performer][nonce >> 8] = bits | bit;
    }

    /// @dev By key first, though the requester may have code: an account with a key can take on code at any time
    /// (EIP-7702), and could else disown what it signed when it has the answer. What a contract signed by ERC-1271 it
    /// can disown; a performer that works for one has to know it.
    function _requireSigned(address requester, bytes32 taskId, bytes calldata signature) private view {
        (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(taskId, signature);
        if (problem == ECDSA.RecoverError.NoError && signer == requester) return;
        if (SignatureChecker.isValidERC1271SignatureNowCalldata(requester, taskId, signature)) return;
        revert RequesterSignatureMismatch(requester, taskId);
    }

    /// @dev A definition that settles singly is never in a batch: there everybody's quorum would speak for its set, and
    /// without its hooks.
    function _requireSettled(Collection calldata task, bytes32 taskId, IAttestationCenter.TaskTerms memory terms)
        private
        view
        returns (address aggregator)
    {
        if (terms.settlesSingly && task.proof.root != 0) revert IAttestationCenter.NotSettled(taskId);
        bytes32 votersHash = Digests.hashVoters(task.epoch, terms.attesterSet, task.indices);
        return center.requireSettled(taskId, task.infoHash, task.isApproved, votersHash, task.proof);
    }

    /// @dev What a task costs never exceeds what its requester signed.
    function _feesOf(
        IAttestationCenter.TaskRequest calldata request,
        bytes32 taskId,
        IAttestationCenter.TaskTerms memory terms
    ) private returns (IAttestationCenter.Fees memory fees) {
        if (terms.feeCalculator != address(0)) {
            bool isAnswered;
            (isAnswered, fees) = FeeQuote.ask(terms.feeCalculator, request);
            if (isAnswered && fees.total() <= request.fee) return fees;
            emit FeeCalculatorFailed(taskId, terms.feeCalculator);
        }
        fees = terms.fees;
        if (fees.total() > request.fee) revert FeeTooSmall(taskId, request.fee, fees.total());
    }

    // --- claiming ----------------------------------------------------------------------------------------------------

    /// @inheritdoc ITaskEscrow
    function claim(address operator, Voters[] calldata pools, uint16[] calldata seats)
        external
        nonReentrant
        returns (uint256 amount)
    {
        if (seats.length != pools.length) revert SeatsLength(seats.length, pools.length);
        amount = _earned[operator];
        _earned[operator] = 0;
        for (uint256 i = 0; i < pools.length; ++i) {
            amount += _takeShare(operator, pools[i], seats[i]);
        }
        if (amount == 0) revert NothingToClaim(operator);
        held -= amount;
        address receiver = operators.rewardsReceiverOf(operator);
        // An aggregator need not be an operator; who withdrew still has a receiver.
        if (receiver == address(0)) receiver = operator;
        emit RewardsClaimed(operator, receiver, amount);
        Currency.pay(token, receiver, amount);
    }

    /// @dev Shares are of all that ever went to the pool, less what the seat took: whoever claims often gets what who
    /// claims once gets. What rounding leaves is less than a base unit for each voter, and stays.
    function _takeShare(address operator, Voters calldata voters, uint16 seat) private returns (uint256 amount) {
        bytes32 pool = _poolKeyOf(voters);
        (address seated, uint256 power, uint256 share) = _shareOf(voters, pool, seat);
        if (seated != operator || power == 0) revert NotAVoter(seat);
        amount = share - _taken[pool][seat];
        _taken[pool][seat] = share;
    }

    /// @dev Cannot overflow: a pool is part of a coin's supply, a power less than 2^64.
    function _shareOf(Voters calldata voters, bytes32 pool, uint16 seat)
        private
        view
        returns (address operator, uint256 power, uint256 share)
    {
        uint256 signed;
        (operator, power, signed) =
            _verifier.shareOf(voters.epoch, voters.attesterSet, voters.isApproval, voters.indices, seat);
        if (power != 0) share = _pools[pool] * power / signed;
    }

    function _poolKeyOf(Voters calldata voters) private pure returns (bytes32) {
        return _poolKey(voters.epoch, voters.attesterSet, voters.isApproval, voters.indices);
    }

    function _poolKey(uint32 epoch, uint32 attesterSet, bool isApproval, bytes calldata indices)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(epoch, attesterSet, isApproval, keccak256(indices)));
    }

    // --- settings: none but the pauser -------------------------------------------------------------------------------

    function _isAllowed(bytes32 name, uint256, uint256) internal pure override returns (bool) {
        revert UnknownChange(name);
    }

    /// @dev Never called: nothing is allowed.
    function _change(bytes32, uint256, uint256) internal pure override {}

    // --- reading -----------------------------------------------------------------------------------------------------

    /// @inheritdoc ITaskEscrow
    function depositOf(address requester, address performer) external view returns (Deposit memory) {
        return _deposits[requester][performer];
    }

    /// @inheritdoc ITaskEscrow
    function isPaid(address requester, address performer, uint256 nonce) external view returns (bool) {
        return _paid[requester][performer][nonce >> 8] >> (nonce & 0xff) & 1 != 0;
    }

    /// @inheritdoc ITaskEscrow
    function earnedBy(address operator) external view returns (uint256) {
        return _earned[operator];
    }

    /// @inheritdoc ITaskEscrow
    function poolOf(Voters calldata voters) external view returns (uint256) {
        return _pools[_poolKeyOf(voters)];
    }

    /// @inheritdoc ITaskEscrow
    function claimableOf(Voters calldata voters, uint16 seat) external view returns (address operator, uint256 amount) {
        bytes32 pool = _poolKeyOf(voters);
        uint256 share;
        (operator,, share) = _shareOf(voters, pool, seat);
        amount = share - _taken[pool][seat];
    }
}
