// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {EpochTables} from "./EpochTables.sol";
import {IAttestationCenter} from "./interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {Digests} from "./libraries/Digests.sol";
import {OperatorTable} from "./libraries/OperatorTable.sol";
import {VoteKey} from "./libraries/VoteKey.sol";

/// @title Operators, their stake, and the tables that vote
/// @notice See IOperatorRegistry. Stake lives here as plain wei: `totalStake + vaultBalance` never exceeds the balance.
///
/// **Leaving.** Stake comes back after `unbondingSeconds`, when no valid table counts the operator's power any more,
/// and when no queued slash waits for it. Whoever leaves can bring about each of these alone.
contract OperatorRegistry is EpochTables, EIP712 {
    // --- constants ---------------------------------------------------------------------------------------------------

    uint8 private constant ATTESTER = 2;
    uint8 private constant ALL_ROLES = 7;

    /// Voting power is stake in gwei.
    uint256 private constant POWER_UNIT = 1 gwei;
    /// 127 such stakes still add up to less than 2^64 gwei; it is more ether than there is.
    uint256 private constant MAX_STAKE = (uint256(type(uint64).max) / 128) * POWER_UNIT;
    /// Room for a DNS name or multiaddr (253 bytes at most by RFC 1035, plus scheme and port); operators pay for theirs,
    /// but every node reads everybody's.
    uint256 private constant MAX_ENDPOINT_BYTES = 320;
    /// A mistyped duration must not lock stake for years.
    uint256 private constant MAX_UNBONDING_SECONDS = 365 days;

    // --- storage -----------------------------------------------------------------------------------------------------

    /// What moves, in one slot. `seat` is the attester's position plus one, 0 for who has none.
    struct Account {
        uint96 stake;
        uint64 withdrawableAt;
        uint32 firstFreeEpoch;
        uint32 pendingSlashes;
        uint8 roles;
        uint8 seat;
        bool isWithdrawn;
    }

    /// What is read off chain. `keyPage` holds the negated vote key.
    struct Profile {
        address keyPage;
        uint64 position;
        bytes32 peerKey;
        string p2pAddress;
        string gatewayUrl;
    }

    /// @inheritdoc IOperatorRegistry
    uint256 public immutable minimumStake;
    /// @inheritdoc IOperatorRegistry
    uint64 public immutable unbondingSeconds;
    /// @inheritdoc IOperatorRegistry
    address public immutable vault;
    address private immutable _deployer;

    /// @inheritdoc IOperatorRegistry
    address public center;
    /// @inheritdoc IOperatorRegistry
    uint256 public totalStake;
    /// @inheritdoc IOperatorRegistry
    uint256 public vaultBalance;

    address[] private _operators;
    address[] private _attesters;
    mapping(address operator => Account) private _accounts;
    mapping(address operator => Profile) private _profiles;
    mapping(bytes32 keyHash => bool) private _isVoteKeyTaken;
    mapping(bytes32 peerKey => bool) private _isPeerKeyTaken;

    // --- constructor -------------------------------------------------------------------------------------------------

    constructor(uint256 minimumStake_, uint64 unbondingSeconds_, uint64 epochSeconds_, address vault_)
        EIP712("ProofOfInference", "1")
        EpochTables(epochSeconds_)
    {
        _requireWithin("minimumStake", minimumStake_, POWER_UNIT, MAX_STAKE);
        _requireWithin("unbondingSeconds", unbondingSeconds_, 1, MAX_UNBONDING_SECONDS);
        _requireWithin("vault", uint160(vault_), 1, type(uint160).max);
        minimumStake = minimumStake_;
        unbondingSeconds = unbondingSeconds_;
        vault = vault_;
        _deployer = msg.sender;
    }

    /// @inheritdoc IOperatorRegistry
    function setCenter(address center_) external {
        if (msg.sender != _deployer) revert OnlyDeployer(msg.sender);
        if (center != address(0)) revert CenterAlreadySet(center);
        IAttestationCenter candidate = IAttestationCenter(center_);
        // A longer dispute than the exit would let the rejected walk away first.
        if (address(candidate.registry()) != address(this) || candidate.disputeWindow() > unbondingSeconds) {
            revert InvalidCenter(center_);
        }
        center = center_;
        emit CenterSet(center_);
    }

    // --- joining -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IOperatorRegistry
    function register(
        uint8 roles,
        bytes calldata voteKey,
        bytes calldata possession,
        bytes32 peerKey,
        string calldata p2pAddress,
        string calldata gatewayUrl
    ) external payable {
        // Who stakes has to know what may slash it: that is final before the first stake.
        if (center == address(0)) revert CenterNotSet();
        Account storage account = _accounts[msg.sender];
        if (account.roles != 0) revert AlreadyRegistered(msg.sender);
        if (roles == 0 || roles > ALL_ROLES) revert InvalidRoles(roles);
        if (msg.value < minimumStake) revert StakeTooSmall(msg.value, minimumStake);
        if (peerKey == 0) revert InvalidPeerKey();
        if (_isPeerKeyTaken[peerKey]) revert PeerKeyTaken(peerKey);
        _isPeerKeyTaken[peerKey] = true;
        account.roles = roles;
        _credit(account, msg.value);
        if (roles & ATTESTER != 0) _takeSeat(account);

        Profile storage profile = _profiles[msg.sender];
        profile.peerKey = peerKey;
        profile.position = uint64(_operators.length);
        _operators.push(msg.sender);
        _setEndpoints(profile, p2pAddress, gatewayUrl);
        if (roles & ATTESTER != 0 || voteKey.length != 0 || possession.length != 0) {
            profile.keyPage = _admitVoteKey(voteKey, possession);
        }
        emit OperatorRegistered(msg.sender, roles, msg.value, voteKey, peerKey, p2pAddress, gatewayUrl);
    }

    /// @inheritdoc IOperatorRegistry
    function updateEndpoints(string calldata p2pAddress, string calldata gatewayUrl) external {
        _requireStaying(_accounts[msg.sender]);
        _setEndpoints(_profiles[msg.sender], p2pAddress, gatewayUrl);
        emit EndpointsUpdated(msg.sender, p2pAddress, gatewayUrl);
    }

    /// @inheritdoc IOperatorRegistry
    function addStake() external payable {
        Account storage account = _accounts[msg.sender];
        _requireStaying(account);
        _credit(account, msg.value);
        emit StakeAdded(msg.sender, msg.value, account.stake);
    }

    // --- leaving -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IOperatorRegistry
    function leave() external {
        Account storage account = _accounts[msg.sender];
        _requireStaying(account);
        uint64 withdrawableAt = uint64(block.timestamp) + unbondingSeconds;
        account.withdrawableAt = withdrawableAt;
        if (account.seat != 0) _giveUpSeat(account);
        emit OperatorLeft(msg.sender, withdrawableAt);
    }

    /// @inheritdoc IOperatorRegistry
    function withdraw() external {
        Account storage account = _accounts[msg.sender];
        if (account.roles == 0) revert NotRegistered(msg.sender);
        if (account.withdrawableAt == 0) revert NotLeft(msg.sender);
        if (account.isWithdrawn) revert AlreadyWithdrawn(msg.sender);
        if (block.timestamp < account.withdrawableAt) revert StillBonded(msg.sender, account.withdrawableAt);
        if (currentEpoch() < account.firstFreeEpoch) revert StillInTable(msg.sender, account.firstFreeEpoch);
        if (account.pendingSlashes != 0) revert SlashPending(msg.sender, account.pendingSlashes);

        uint256 amount = account.stake;
        account.stake = 0;
        account.isWithdrawn = true;
        totalStake -= amount;
        _unlist(msg.sender);
        emit StakeWithdrawn(msg.sender, amount);
        _pay(msg.sender, amount);
    }

    // --- epochs ------------------------------------------------------------------------------------------------------

    /// @inheritdoc EpochTables
    function _activeAttesters() internal view override returns (address[] memory members, uint64[] memory powers) {
        uint256 seats = _attesters.length;
        (members, powers) = (new address[](seats), new uint64[](seats));
        uint256 count = 0;
        for (uint256 seat = 0; seat < seats; ++seat) {
            Account storage account = _accounts[_attesters[seat]];
            // Who fell below the minimum by a slash sits but has no vote.
            if (!_isActive(account)) continue;
            members[count] = _attesters[seat];
            powers[count] = uint64(account.stake / POWER_UNIT);
            ++count;
        }
        assembly ("memory-safe") {
            mstore(members, count)
            mstore(powers, count)
        }
    }

    /// @inheritdoc EpochTables
    function _keyPageOf(address operator) internal view override returns (address) {
        return _profiles[operator].keyPage;
    }

    // --- slashing ----------------------------------------------------------------------------------------------------

    /// @inheritdoc IOperatorRegistry
    function queueSlash(address operator) external {
        if (msg.sender != center) revert OnlyCenter(msg.sender);
        ++_accounts[operator].pendingSlashes;
    }

    /// @inheritdoc IOperatorRegistry
    function slash(address operator, uint256 wad) external returns (uint256 amount) {
        if (msg.sender != center) revert OnlyCenter(msg.sender);
        Account storage account = _accounts[operator];
        --account.pendingSlashes;
        amount = uint256(account.stake) * wad / 1e18;
        account.stake -= uint96(amount);
        totalStake -= amount;
        vaultBalance += amount;
        emit OperatorSlashed(operator, amount, account.stake);
    }

    /// @inheritdoc IOperatorRegistry
    function withdrawVault() external {
        if (msg.sender != vault) revert OnlyVault(msg.sender);
        uint256 amount = vaultBalance;
        vaultBalance = 0;
        emit VaultWithdrawn(amount);
        _pay(vault, amount);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IOperatorRegistry
    function operators() external view returns (Operator[] memory) {
        return operatorsFrom(0, _operators.length);
    }

    /// @inheritdoc IOperatorRegistry
    function operatorsFrom(uint256 from, uint256 limit) public view returns (Operator[] memory list) {
        uint256 count = _operators.length;
        uint256 rest = from < count ? count - from : 0;
        list = new Operator[](limit < rest ? limit : rest);
        for (uint256 i = 0; i < list.length; ++i) {
            list[i] = _describe(_operators[from + i]);
        }
    }

    /// @inheritdoc IOperatorRegistry
    function operatorCount() external view returns (uint256) {
        return _operators.length;
    }

    /// @inheritdoc IOperatorRegistry
    function operatorAt(uint256 position) external view returns (Operator memory) {
        return _describe(_operators[position]);
    }

    /// @inheritdoc IOperatorRegistry
    function operatorOf(address operator) external view returns (Operator memory) {
        if (_accounts[operator].roles == 0) revert NotRegistered(operator);
        return _describe(operator);
    }

    /// @inheritdoc IOperatorRegistry
    function rolesOf(address operator) external view returns (uint8) {
        return _accounts[operator].roles;
    }

    /// @inheritdoc IOperatorRegistry
    function possessionDigest(address operator, bytes32 keyHash) public view returns (bytes32) {
        return _hashTypedDataV4(Digests.hashKeyPossession(operator, keyHash));
    }

    /// @inheritdoc IOperatorRegistry
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    // --- inside ------------------------------------------------------------------------------------------------------

    function _admitVoteKey(bytes calldata voteKey, bytes calldata possession) private returns (address keyPage) {
        VoteKey.requireLengths(voteKey, possession);
        bytes32 keyHash = keccak256(voteKey);
        if (_isVoteKeyTaken[keyHash]) revert VoteKeyTaken(keyHash);
        _isVoteKeyTaken[keyHash] = true;
        VoteKey.requirePossession(voteKey, possession, possessionDigest(msg.sender, keyHash), msg.sender, keyHash);
        return VoteKey.write(voteKey);
    }

    function _takeSeat(Account storage account) private {
        if (_attesters.length == OperatorTable.MAX_ATTESTERS) revert TooManyAttesters(OperatorTable.MAX_ATTESTERS);
        _attesters.push(msg.sender);
        account.seat = uint8(_attesters.length);
    }

    /// @dev The last attester moves to the empty seat. The current and the previous table still count the leaver.
    function _giveUpSeat(Account storage account) private {
        uint256 position = account.seat - 1;
        address last = _attesters[_attesters.length - 1];
        _attesters[position] = last;
        _accounts[last].seat = account.seat;
        _attesters.pop();
        account.seat = 0;
        uint32 epoch = currentEpoch();
        if (epoch != 0) account.firstFreeEpoch = epoch + 2;
    }

    function _unlist(address operator) private {
        uint64 position = _profiles[operator].position;
        address last = _operators[_operators.length - 1];
        _operators[position] = last;
        _profiles[last].position = position;
        _operators.pop();
    }

    function _credit(Account storage account, uint256 amount) private {
        uint256 stake = account.stake + amount;
        if (stake > MAX_STAKE) revert StakeTooLarge(stake, MAX_STAKE);
        account.stake = uint96(stake);
        totalStake += amount;
    }

    function _setEndpoints(Profile storage profile, string calldata p2pAddress, string calldata gatewayUrl) private {
        uint256 longest = bytes(p2pAddress).length;
        if (bytes(gatewayUrl).length > longest) longest = bytes(gatewayUrl).length;
        if (longest > MAX_ENDPOINT_BYTES) revert EndpointTooLong(longest, MAX_ENDPOINT_BYTES);
        profile.p2pAddress = p2pAddress;
        profile.gatewayUrl = gatewayUrl;
    }

    function _describe(address operator) private view returns (Operator memory) {
        Account storage account = _accounts[operator];
        Profile storage profile = _profiles[operator];
        return Operator({
            operator: operator,
            roles: account.roles,
            isActive: _isActive(account),
            withdrawableAt: account.withdrawableAt,
            stake: account.stake,
            peerKey: profile.peerKey,
            voteKey: profile.keyPage == address(0) ? bytes("") : OperatorTable.readKey(profile.keyPage, 0),
            p2pAddress: profile.p2pAddress,
            gatewayUrl: profile.gatewayUrl
        });
    }

    function _isActive(Account storage account) private view returns (bool) {
        return account.roles != 0 && account.withdrawableAt == 0 && account.stake >= minimumStake;
    }

    function _requireStaying(Account storage account) private view {
        if (account.roles == 0) revert NotRegistered(msg.sender);
        if (account.withdrawableAt != 0) revert AlreadyLeft(msg.sender);
    }

    function _requireWithin(string memory name, uint256 value, uint256 smallest, uint256 largest) private pure {
        if (value < smallest || value > largest) revert InvalidSetting(name, value);
    }

    /// @dev Last in its function, after all state is written.
    function _pay(address to, uint256 amount) private {
        (bool isPaid,) = to.call{value: amount}("");
        if (!isPaid) revert TransferFailed(to, amount);
    }
}
