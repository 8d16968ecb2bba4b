// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "./IAttestationCenter.sol";
import {IOperatorSource} from "./IOperatorSource.sol";

/// @title Fees: from the requester's deposit to those who did the work
/// @notice A deposit is for one performer, so that this performer alone can count what is still free of it: no other
/// can be promised the same coin. A fee moves when a settled verdict and the requester's own signature on the request
/// are shown, once for each nonce that a requester used
/// with a performer. An approved task pays performer, attesters and aggregator; a
/// rejected one pays attesters and aggregator for their work, and the performer nothing.
///
/// The attesters' share of a task goes to the **pool** of exactly those who voted so, and is theirs by power.
interface ITaskEscrow {
    /// `balance` is all that lies here, `refunding` the part that goes back at `refundableAt` (unix seconds).
    struct Deposit {
        uint96 balance;
        uint96 refunding;
        uint64 refundableAt;
    }

    /// A settled task to be paid. `epoch` and `indices` are its certificate's.
    struct Collection {
        IAttestationCenter.TaskRequest request;
        bytes requesterSignature;
        bytes32 infoHash;
        bool isApproved;
        uint32 epoch;
        bytes indices;
        IAttestationCenter.SettlementProof proof;
    }

    /// Who voted alike, in which table.
    struct Voters {
        uint32 epoch;
        uint32 attesterSet;
        bool isApproval;
        bytes indices;
    }

    event Deposited(address indexed requester, address indexed performer, uint256 amount);
    event RefundStarted(address indexed requester, address indexed performer, uint256 amount, uint64 refundableAt);
    event Refunded(address indexed requester, address indexed performer, uint256 amount);
    event TaskPaid(
        bytes32 indexed taskId,
        address indexed requester,
        uint256 toPerformer,
        uint256 toAttesters,
        address aggregator,
        uint256 toAggregator
    );
    /// The definition's calculator failed, or asked for more than the request offers; the definition's own fees held.
    event FeeCalculatorFailed(bytes32 indexed taskId, address feeCalculator);
    event RewardsClaimed(address indexed operator, address receiver, uint256 amount);

    error DepositTooLarge(uint256 balance, uint256 maximum);
    error DepositTooSmall(address requester, address performer, uint256 balance, uint256 needed);
    error NothingToRefund(address requester, address performer);
    error RefundNotDue(uint64 refundableAt);
    error AlreadyPaid(address requester, address performer, uint256 nonce);
    error RequesterSignatureMismatch(address requester, bytes32 taskId);
    /// The request offers less than the definition's fees.
    error FeeTooSmall(bytes32 taskId, uint256 fee, uint256 needed);
    error NotAVoter(uint16 seat);
    error SeatsLength(uint256 length, uint256 expected);
    error NothingToClaim(address operator);
    /// Too little gas is left to give the fee calculator all that it may use.
    error GasTooLow(uint256 left, uint256 needed);
    error DepositsPaused(uint64 until);
    error InvalidSetting(string name, uint256 value);

    /// @notice Adds to the deposit of `requester` for `performer`. Anyone may pay.
    /// @param amount in base units; the transaction's value if the token is the chain's own coin
    function deposit(address requester, address performer, uint256 amount) external payable;

    /// @notice Asks for (part of) a deposit back. The performer sees it at once and has `refundDelay` to collect what
    /// it has earned. A second call replaces the first and starts the delay again.
    function startRefund(address performer, uint256 amount) external;

    /// @notice Pays what is due of it, at most what is left.
    function refund(address performer) external returns (uint256 amount);

    /// @notice Pays for settled tasks. Anyone may. Reverts as a whole if one of them cannot be paid.
    function collect(Collection[] calldata tasks) external;

    /// @notice Pays what an operator earned as performer and aggregator, and its shares of `pools` as the attester in
    /// `seats`, to its rewards receiver. Anyone may.
    function claim(address operator, Voters[] calldata pools, uint16[] calldata seats) external returns (uint256 amount);

    // --- reading ---
    function depositOf(address requester, address performer) external view returns (Deposit memory);
    function isPaid(address requester, address performer, uint256 nonce) external view returns (bool);
    /// @notice Earned as performer or aggregator and not claimed yet.
    function earnedBy(address operator) external view returns (uint256);
    /// @notice All that ever went to the pool.
    function poolOf(Voters calldata voters) external view returns (uint256);
    /// @notice What the attester in `seat` would get of the pool now, and who that is.
    function claimableOf(Voters calldata voters, uint16 seat) external view returns (address operator, uint256 amount);
    function center() external view returns (IAttestationCenter);
    function operators() external view returns (IOperatorSource);
    /// @notice What fees are counted in; zero: the chain's own coin.
    function token() external view returns (address);
    function refundDelay() external view returns (uint64);
    /// @notice Everything that lies here: deposits, pools, and what is earned and not claimed.
    function held() external view returns (uint256);
}
