// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEpochTables} from "./IEpochTables.sol";
import {IOperatorSource} from "./IOperatorSource.sol";

/// @title Who may perform, attest and aggregate, with what stake
/// @notice An **operator** is the address that signs task infos and transactions; its **owner** registered it, paid the
/// stake and alone gets it back. Both may be one address. Stake moves in by `register` and `addStake`, out by `leave`
/// and `withdraw`, and to the court by a slash. There is no other way: no role reaches it.
interface IOperatorRegistry is IOperatorSource {
    /// @param operator the signing address; zero: the caller itself
    /// @param rewardsReceiver zero: the caller
    /// @param roles sum of 1 performer, 2 attester, 4 aggregator
    /// @param stake in base units of the stake token; the transaction's value if stake is the chain's own coin
    /// @param voteKey packed G2 point, 192 bytes; empty when `roles` has no attester
    /// @param possession packed G1 point, 96 bytes: the key's signature over the tables' `possessionDigest`
    /// @param peerKey ed25519 public key of the libp2p identity
    /// @param p2pAddress multiaddr without the peer id
    /// @param consent the operator's signature over `consentDigest`; empty when the caller is the operator
    /// @param allowance a signed ticket (`allowanceDigest`); ignored while registration is open
    struct Registration {
        address operator;
        address rewardsReceiver;
        uint8 roles;
        uint256 stake;
        bytes voteKey;
        bytes possession;
        bytes32 peerKey;
        string p2pAddress;
        string gatewayUrl;
        bytes consent;
        Allowance allowance;
    }

    /// A ticket of the allow-list's signer: for one operator, once, until `expiry` (unix seconds).
    struct Allowance {
        uint256 nonce;
        uint64 expiry;
        bytes signature;
    }

    /// An operator as it is now. `stake` in base units. `withdrawableAt` in unix seconds, 0 for who has not left.
    /// `voteKey` is the packed G2 point that the next table will hold; empty without one.
    struct Operator {
        address operator;
        address owner;
        address rewardsReceiver;
        uint8 roles;
        bool isActive;
        uint64 withdrawableAt;
        uint256 stake;
        bytes32 peerKey;
        bytes voteKey;
        string p2pAddress;
        string gatewayUrl;
    }

    event OperatorRegistered(
        address indexed operator,
        address indexed owner,
        uint8 roles,
        uint256 stake,
        bytes32 peerKey,
        string p2pAddress,
        string gatewayUrl
    );
    event EndpointsUpdated(address indexed operator, string p2pAddress, string gatewayUrl);
    event RewardsReceiverChanged(address indexed operator, address receiver);
    event StakeAdded(address indexed operator, uint256 amount, uint256 stake);
    event OperatorLeft(address indexed operator, uint64 withdrawableAt);
    event StakeWithdrawn(address indexed operator, address indexed owner, uint256 amount);
    event OperatorSlashed(address indexed operator, uint256 amount, uint256 stake);
    event CourtSet(address court);

    error CourtNotSet();
    error AlreadyRegistered(address operator);
    error InvalidRoles(uint8 roles);
    error StakeTooSmall(uint256 stake, uint256 minimum);
    error StakeTooLarge(uint256 stake, uint256 maximum);
    error UnexpectedVoteKey();
    error InvalidPeerKey();
    error PeerKeyTaken(bytes32 peerKey);
    error EndpointTooLong(uint256 length, uint256 maximum);
    error InvalidConsent(address operator, address owner);
    error AllowanceExpired(uint64 expiry);
    error AllowanceUsed(uint256 nonce);
    error InvalidAllowance(address operator);
    error NotRegistered(address operator);
    error OnlyOwner(address caller, address owner);
    error AlreadyLeft(address operator);
    error NotLeft(address operator);
    error StillBonded(address operator, uint64 withdrawableAt);
    /// The operator's power still counts in a valid table, that of `epoch`: roll, and wait out the grace window.
    error StillInTable(address operator, uint32 epoch);
    /// Queued slashes have to be executed or cancelled first; anyone can do the former, the owner included.
    error SlashPending(address operator, uint256 count);
    error AlreadyWithdrawn(address operator);
    error OnlyDeployer(address caller);
    error CourtAlreadySet(address court);
    error InvalidCourt(address court);
    error InvalidSetting(string name, uint256 value);

    /// @notice Registers an operator, with the caller as its owner. For ever: an address, a vote key and a peer key
    /// serve one registration.
    function register(Registration calldata registration) external payable;

    /// @notice Owner or operator.
    function updateEndpoints(address operator, string calldata p2pAddress, string calldata gatewayUrl) external;

    /// @notice Another vote key from the next epoch on. Owner or operator.
    function rotateVoteKey(address operator, bytes calldata voteKey, bytes calldata possession) external;

    /// @notice Owner only: a stolen hot key must not redirect money.
    function setRewardsReceiver(address operator, address receiver) external;

    /// @notice Anyone may add to an operator's stake; it belongs to the owner from then on.
    /// @param amount in base units; the transaction's value if stake is the chain's own coin
    function addStake(address operator, uint256 amount) external payable;

    /// @notice Starts an operator's exit: out of the next table at once, stake back after `unbondingSeconds`,
    /// slashable until then. Final. Owner only.
    function leave(address operator) external;

    /// @notice Pays the whole remaining stake to the owner. Owner only.
    function withdraw(address operator) external;

    /// @notice Names the one contract that may slash. Deployer only, once, and before anybody can register.
    function setCourt(address court) external;

    // --- reading ---
    /// @notice Everybody who registered and has not withdrawn, in no lasting order: at most `limit` from `from`.
    function operatorsFrom(uint256 from, uint256 limit) external view returns (Operator[] memory);
    function operatorCount() external view returns (uint256);

    /// @notice Also answers for who has withdrawn; reverts with NotRegistered for a stranger.
    function operatorOf(address operator) external view returns (Operator memory);

    /// @notice What an operator signs (raw, 65 bytes r, s, v) to be registered by `owner`: EIP-712 in this domain.
    function consentDigest(address operator, address owner) external view returns (bytes32);

    /// @notice What the allow-list's signer signs: EIP-712 in this domain.
    function allowanceDigest(address operator, uint256 nonce, uint64 expiry) external view returns (bytes32);

    function domainSeparator() external view returns (bytes32);
    function tables() external view returns (IEpochTables);
    function court() external view returns (address);
    function minimumStake() external view returns (uint256);
    /// @notice Base units of stake that make one unit of voting power.
    function powerUnit() external view returns (uint256);
    function totalStake() external view returns (uint256);
    /// @notice Who signs allowances; zero: registration is open.
    function allowlistSigner() external view returns (address);
}
