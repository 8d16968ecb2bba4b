// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {BLSQuorumVerifier} from "./BLSQuorumVerifier.sol";
import {IAttestationCenter} from "./interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {BLS12381} from "./libraries/BLS12381.sol";
import {CodePage} from "./libraries/CodePage.sol";
import {Digests} from "./libraries/Digests.sol";
import {OperatorTable} from "./libraries/OperatorTable.sol";

/// @title Operators, their stake, and the tables that vote
/// @notice See IOperatorRegistry. Stake lives here as plain wei: `totalStake + vaultBalance` never exceeds the balance.
///
/// **Epochs.** `rollEpoch` is open to everyone but bound to time alone: once at any moment to begin with, then not
/// within `epochSeconds` of the last roll, whatever has changed. If a change of stake allowed a roll, one wei twice
/// would push every certificate that is on its way out of the two valid tables. So a table stays valid for at least
/// `epochSeconds` after it stopped being the current one. Whoever deploys should roll before publishing the first task
/// definition: the very first table is whoever had registered by then.
///
/// **Leaving.** Stake comes back after `unbondingSeconds`, when no valid table counts the operator's power any more,
/// and when no queued slash waits for it. Whoever leaves can bring about each of these alone.
contract OperatorRegistry is IOperatorRegistry, BLSQuorumVerifier, EIP712 {
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
    /// Bounds of settings: a mistyped duration must not lock stake for years or stop epochs.
    uint256 private constant MAX_UNBONDING_SECONDS = 365 days;
    uint256 private constant MAX_EPOCH_SECONDS = 30 days;

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

    struct Head {
        address table;
        uint32 epoch;
        uint64 rolledAt;
    }

    /// @inheritdoc IOperatorRegistry
    uint256 public immutable minimumStake;
    /// @inheritdoc IOperatorRegistry
    uint64 public immutable unbondingSeconds;
    /// @inheritdoc IOperatorRegistry
    uint64 public immutable epochSeconds;
    /// @inheritdoc IOperatorRegistry
    address public immutable vault;
    address private immutable _deployer;

    Head private _head;
    address private _previousTable;
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
    /// An address registers once and its key never changes, so the members in order say all that their pages hold.
    mapping(bytes32 membersHash => address memberPage) private _memberPages;

    // --- constructor -------------------------------------------------------------------------------------------------

    constructor(uint256 minimumStake_, uint64 unbondingSeconds_, uint64 epochSeconds_, address vault_)
        EIP712("ProofOfInference", "1")
    {
        _requireWithin("minimumStake", minimumStake_, POWER_UNIT, MAX_STAKE);
        _requireWithin("unbondingSeconds", unbondingSeconds_, 1, MAX_UNBONDING_SECONDS);
        _requireWithin("epochSeconds", epochSeconds_, 1, MAX_EPOCH_SECONDS);
        _requireWithin("vault", uint160(vault_), 1, type(uint160).max);
        minimumStake = minimumStake_;
        unbondingSeconds = unbondingSeconds_;
        epochSeconds = epochSeconds_;
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
        if (_head.epoch < account.firstFreeEpoch) revert StillInTable(msg.sender, account.firstFreeEpoch);
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

    /// @inheritdoc IOperatorRegistry
    function rollEpoch() external returns (uint32 epoch) {
        uint64 due = rollableAt();
        if (block.timestamp < due) revert EpochNotOver(due);
        (address[] memory members, uint64[] memory powers) = _activeAttesters();
        (address table, uint64 total) = OperatorTable.write(_memberPageOf(members), powers);

        epoch = _head.epoch + 1;
        _previousTable = _head.table;
        _head = Head({table: table, epoch: epoch, rolledAt: uint64(block.timestamp)});
        emit EpochRolled(epoch, members.length, total, table);
    }

    /// @inheritdoc IOperatorRegistry
    function rollableAt() public view returns (uint64) {
        return _head.epoch == 0 ? 0 : _head.rolledAt + epochSeconds;
    }

    /// @dev Never over MAX_ATTESTERS; who fell below the minimum by a slash sits but has no vote.
    function _activeAttesters() private view returns (address[] memory members, uint64[] memory powers) {
        uint256 seats = _attesters.length;
        (members, powers) = (new address[](seats), new uint64[](seats));
        uint256 count = 0;
        for (uint256 seat = 0; seat < seats; ++seat) {
            Account storage account = _accounts[_attesters[seat]];
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

    /// @dev The pages of keys cost 42k gas a member; they are written once for each set of members.
    function _memberPageOf(address[] memory members) private returns (address memberPage) {
        bytes32 membersHash = keccak256(abi.encodePacked(members));
        memberPage = _memberPages[membersHash];
        if (memberPage != address(0)) return memberPage;
        address[] memory keys = new address[](members.length);
        for (uint256 i = 0; i < members.length; ++i) {
            keys[i] = _profiles[members[i]].keyPage;
        }
        memberPage = OperatorTable.writeMembers(members, keys);
        _memberPages[membersHash] = memberPage;
    }

    /// @inheritdoc BLSQuorumVerifier
    function _tableAt(uint32 epoch) internal view override returns (address) {
        Head memory head = _head;
        if (epoch == head.epoch && epoch != 0) return head.table;
        if (epoch == 0 || uint256(epoch) + 1 != head.epoch) revert UnknownEpoch(epoch, head.epoch);
        return _previousTable;
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
    function currentEpoch() external view returns (uint32) {
        return _head.epoch;
    }

    /// @inheritdoc IOperatorRegistry
    function tableOf(uint32 epoch)
        external
        view
        returns (address[] memory members, bytes[] memory voteKeys, uint64[] memory powers)
    {
        return OperatorTable.entries(_tableAt(epoch));
    }

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

    /// @dev One pairing proves that the key is a point of the subgroup and that the caller holds its secret, without
    /// which a key chosen as "mine minus all of yours" would sign for everybody.
    function _admitVoteKey(bytes calldata voteKey, bytes calldata possession) private returns (address keyPage) {
        if (voteKey.length != BLS12381.PACKED_G2) revert VoteKeyLength(voteKey.length);
        if (possession.length != BLS12381.PACKED_G1) revert PossessionLength(possession.length);
        bytes32 keyHash = keccak256(voteKey);
        if (_isVoteKeyTaken[keyHash]) revert VoteKeyTaken(keyHash);
        _isVoteKeyTaken[keyHash] = true;
        _requirePossession(voteKey, possession, keyHash);

        bytes memory negated = voteKey;
        uint256 point;
        assembly ("memory-safe") {
            point := add(negated, 32)
        }
        BLS12381.negateG2(point);
        return CodePage.write(negated);
    }

    /// @dev e(possession, −g2) · e(H(digest), key) = 1.
    function _requirePossession(bytes calldata voteKey, bytes calldata possession, bytes32 keyHash) private view {
        bytes32 digest = possessionDigest(msg.sender, keyHash);
        uint256 input = BLS12381.allocate(BLS12381.PAIRING_INPUT + BLS12381.HASH_SCRATCH);
        uint256 key;
        uint256 signature;
        assembly ("memory-safe") {
            key := voteKey.offset
            signature := possession.offset
        }
        BLS12381.loadG1(signature, input);
        BLS12381.storeNegatedGenerator(input + 128);
        BLS12381.loadG2(key, input + 512);
        if (BLS12381.isInfinity(input + 512, BLS12381.PADDED_G2)) revert InfinityVoteKey();
        BLS12381.hashToG1(digest, BLS12381.POSSESSION_TAG, input + 384, input + BLS12381.PAIRING_INPUT);
        (bool isWellFormed, bool isOne) = BLS12381.isPairingOne(input);
        if (!isWellFormed) revert MalformedVoteKey(voteKey, possession);
        if (!isOne) revert PossessionMismatch(msg.sender, keyHash);
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
        uint32 epoch = _head.epoch;
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
