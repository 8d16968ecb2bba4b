// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

import {Governed} from "./Governed.sol";
import {IEpochTables} from "./interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {IOperatorSource} from "./interfaces/IOperatorSource.sol";
import {ISlashingCourt} from "./interfaces/ISlashingCourt.sol";
import {Currency} from "./libraries/Currency.sol";
import {Digests} from "./libraries/Digests.sol";
import {ProfilePage} from "./libraries/ProfilePage.sol";

/// @title Operators and their stake
/// @notice See IOperatorRegistry. `totalStake` never exceeds what this contract holds of the stake token.
///
/// **Leaving.** Stake comes back after `unbondingSeconds`, when no valid table counts the operator's power any more,
/// and when no slash of it waits. Whoever leaves can bring about each of these alone.
/// @dev The guard is for tokens that call back: `Currency.take` credits what the balance grew by, and a deposit inside
/// another one would be credited twice.
contract OperatorRegistry is IOperatorRegistry, Governed, EIP712, ReentrancyGuardTransient {
    // --- constants ---------------------------------------------------------------------------------------------------

    uint8 private constant ATTESTER = 2;
    uint8 private constant ALL_ROLES = 7;
    bytes32 private constant ALLOWLIST_SIGNER = "allowlistSigner";

    uint256 private constant MAX_STAKE = type(uint96).max;
    uint256 private constant MAX_POWER = type(uint32).max;
    uint256 private constant WAD = 1e18;
    /// Room for a DNS name or multiaddr (253 bytes at most by RFC 1035, plus scheme and port); operators pay for theirs,
    /// but every node reads everybody's.
    uint256 private constant MAX_ENDPOINT_BYTES = 320;
    /// A mistyped duration must not lock stake for years.
    uint256 private constant MAX_UNBONDING_SECONDS = 365 days;

    // --- storage -----------------------------------------------------------------------------------------------------

    /// One slot, written once at registration. `position` is the one in `_listed`, `page` the number of a ProfilePage.
    /// Nobody can afford to overflow `pendingSlashes`, `position` or `page`: each step costs 50,000 gas or more.
    struct Account {
        uint96 stake;
        uint40 withdrawableAt;
        uint32 pendingSlashes;
        uint32 position;
        uint32 page;
        uint8 roles;
        bool isWithdrawn;
    }

    /// What most operators do without: an owner of another address (zero: the operator itself), and the epoch whose
    /// table may still count who left (zero: none).
    struct Exception {
        address owner;
        uint32 leftEpoch;
    }

    struct Totals {
        uint128 stake;
        uint32 operators;
        uint32 pages;
    }

    /// @inheritdoc IOperatorRegistry
    IEpochTables public immutable tables;
    /// @inheritdoc IOperatorSource
    address public immutable stakeToken;
    /// @inheritdoc IOperatorRegistry
    uint256 public immutable minimumStake;
    /// @inheritdoc IOperatorRegistry
    uint256 public immutable powerUnit;
    /// @inheritdoc IOperatorSource
    uint64 public immutable unbondingSeconds;
    address private immutable _deployer;

    /// @inheritdoc IOperatorRegistry
    address public court;
    /// @inheritdoc IOperatorRegistry
    address public allowlistSigner;

    Totals private _totals;
    /// Page numbers of everybody who registered and has not withdrawn, eight to a slot; how many is in `_totals`.
    uint32[4_294_967_296] private _listed;
    mapping(address operator => Account) private _accounts;
    mapping(address operator => Exception) private _exceptions;
    /// Zero: the owner.
    mapping(address operator => address) private _receivers;
    mapping(bytes32 peerKey => bool) private _isPeerKeyTaken;
    /// One bit a nonce.
    mapping(address signer => mapping(uint256 word => uint256)) private _usedAllowances;

    // --- constructor, court ------------------------------------------------------------------------------------------

    constructor(
        IEpochTables tables_,
        address stakeToken_,
        uint256 minimumStake_,
        uint256 powerUnit_,
        uint64 unbondingSeconds_,
        address owner_,
        uint64 changeDelay_
    ) Governed(owner_, changeDelay_) EIP712("ProofOfInference", "1") {
        if (address(tables_).code.length == 0) {
            revert InvalidSetting("tables", uint160(address(tables_)));
        }
        if (stakeToken_ != address(0) && stakeToken_.code.length == 0) {
            revert InvalidSetting("stakeToken", uint160(stakeToken_));
        }
        _requireWithin("powerUnit", powerUnit_, 1, MAX_STAKE);
        // A stake that is enough to vote is worth a vote.
        _requireWithin("minimumStake", minimumStake_, powerUnit_, MAX_STAKE);
        _requireWithin("unbondingSeconds", unbondingSeconds_, 1, MAX_UNBONDING_SECONDS);
        tables = tables_;
        stakeToken = stakeToken_;
        minimumStake = minimumStake_;
        powerUnit = powerUnit_;
        unbondingSeconds = unbondingSeconds_;
        _deployer = msg.sender;
    }

    /// @inheritdoc IOperatorRegistry
    function setCourt(address court_) external {
        if (msg.sender != _deployer) revert OnlyDeployer(msg.sender);
        if (court != address(0)) revert CourtAlreadySet(court);
        if (court_.code.length == 0) revert InvalidCourt(court_);
        ISlashingCourt candidate = ISlashingCourt(court_);
        // A longer dispute than the exit would let the offender walk away first.
        if (address(candidate.operators()) != address(this) || candidate.longestDispute() > unbondingSeconds) {
            revert InvalidCourt(court_);
        }
        court = court_;
        emit CourtSet(court_);
    }

    // --- joining -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IOperatorRegistry
    function register(Registration calldata registration) external payable nonReentrant {
        _requireNotPaused();
        // Who stakes has to know what may slash it: that is final before the first stake.
        if (court == address(0)) revert CourtNotSet();
        address operator = registration.operator == address(0) ? msg.sender : registration.operator;
        if (_accounts[operator].roles != 0) revert AlreadyRegistered(operator);
        _requireConsent(operator, registration.consent);
        _useAllowance(operator, registration.allowance);
        _requireRoles(registration);
        _takePeerKey(registration.peerKey);

        uint256 stake = Currency.take(stakeToken, registration.stake);
        if (stake < minimumStake) revert StakeTooSmall(stake, minimumStake);
        _requireAtMost(stake);
        _enlist(operator, stake, registration);
        if (registration.roles & ATTESTER == 0) return;
        tables.seat(operator, msg.sender, registration.voteKey, registration.possession, _powerOf(stake));
    }

    /// @inheritdoc IOperatorRegistry
    function addStake(address operator, uint256 amount) external payable nonReentrant {
        Account storage account = _stayingAccount(operator);
        uint256 received = Currency.take(stakeToken, amount);
        uint256 stake = account.stake + received;
        _requireAtMost(stake);
        emit StakeAdded(operator, received, stake);
        _setStake(operator, account, stake, false);
    }

    // --- changing ----------------------------------------------------------------------------------------------------

    /// @inheritdoc IOperatorRegistry
    function updateEndpoints(address operator, string calldata p2pAddress, string calldata gatewayUrl) external {
        Account storage account = _stayingAccount(operator);
        _requireOwnerOrOperator(operator);
        (bytes32 peerKey,,) = ProfilePage.read(account.page);
        uint32 page = ++_totals.pages;
        account.page = page;
        _listed[account.position] = page;
        emit EndpointsUpdated(operator, p2pAddress, gatewayUrl);
        _writeProfile(page, operator, peerKey, p2pAddress, gatewayUrl);
    }

    /// @inheritdoc IOperatorRegistry
    function rotateVoteKey(address operator, bytes calldata voteKey, bytes calldata possession) external {
        _stayingAccount(operator);
        _requireOwnerOrOperator(operator);
        tables.rotateKey(operator, voteKey, possession);
    }

    /// @inheritdoc IOperatorRegistry
    function setRewardsReceiver(address operator, address receiver) external {
        address owner_ = _requireOwner(operator);
        _setReceiver(operator, owner_, receiver);
        emit RewardsReceiverChanged(operator, receiver == address(0) ? owner_ : receiver);
    }

    // --- leaving -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IOperatorRegistry
    function leave(address operator) external {
        Account storage account = _stayingAccount(operator);
        _requireOwner(operator);
        uint64 withdrawableAt = uint64(block.timestamp) + unbondingSeconds;
        account.withdrawableAt = uint40(withdrawableAt);
        emit OperatorLeft(operator, withdrawableAt);
        if (account.roles & ATTESTER == 0) return;
        // The current table may count it; the next one will not. Zero before the first roll.
        uint32 epoch = tables.currentEpoch();
        if (epoch != 0) _exceptions[operator].leftEpoch = epoch;
        tables.unseat(operator);
    }

    /// @inheritdoc IOperatorRegistry
    function withdraw(address operator) external nonReentrant {
        address owner_ = _requireOwner(operator);
        Account storage account = _accounts[operator];
        _requireWithdrawable(operator, account);
        uint256 amount = account.stake;
        _setStake(operator, account, 0, false);
        account.isWithdrawn = true;
        _unlist(account.position);
        emit StakeWithdrawn(operator, owner_, amount);
        // Some tokens refuse to move nothing, and who was slashed of everything leaves too.
        if (amount != 0) Currency.pay(stakeToken, owner_, amount);
    }

    // --- slashing ----------------------------------------------------------------------------------------------------

    /// @inheritdoc IOperatorSource
    function holdExit(address operator) external {
        ++_slashableAccount(operator).pendingSlashes;
    }

    /// @inheritdoc IOperatorSource
    function releaseExit(address operator) external {
        --_slashableAccount(operator).pendingSlashes;
    }

    /// @inheritdoc IOperatorSource
    function slash(address operator, uint256 wad) external nonReentrant returns (uint256 amount) {
        Account storage account = _slashableAccount(operator);
        --account.pendingSlashes;
        amount = account.stake * wad / WAD;
        uint256 stake = account.stake - amount;
        emit OperatorSlashed(operator, amount, stake);
        _setStake(operator, account, stake, true);
        if (amount != 0) Currency.pay(stakeToken, msg.sender, amount);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IOperatorRegistry
    function operatorsFrom(uint256 from, uint256 limit) external view returns (Operator[] memory list) {
        uint256 count = _totals.operators;
        uint256 rest = from < count ? count - from : 0;
        list = new Operator[](limit < rest ? limit : rest);
        for (uint256 i = 0; i < list.length; ++i) {
            list[i] = _describe(ProfilePage.operatorOf(_listed[from + i]));
        }
    }

    /// @inheritdoc IOperatorRegistry
    function operatorCount() external view returns (uint256) {
        return _totals.operators;
    }

    /// @inheritdoc IOperatorRegistry
    function operatorOf(address operator) external view returns (Operator memory) {
        if (_accounts[operator].roles == 0) revert NotRegistered(operator);
        return _describe(operator);
    }

    /// @inheritdoc IOperatorSource
    function rolesOf(address operator) external view returns (uint8) {
        return _accounts[operator].roles;
    }

    /// @inheritdoc IOperatorSource
    function rewardsReceiverOf(address operator) public view returns (address) {
        if (_accounts[operator].roles == 0) return address(0);
        address receiver = _receivers[operator];
        return receiver == address(0) ? _ownerOf(operator) : receiver;
    }

    /// @inheritdoc IOperatorRegistry
    function totalStake() external view returns (uint256) {
        return _totals.stake;
    }

    /// @inheritdoc IOperatorRegistry
    function consentDigest(address operator, address owner_) public view returns (bytes32) {
        return _hashTypedDataV4(Digests.hashConsent(operator, owner_));
    }

    /// @inheritdoc IOperatorRegistry
    function allowanceDigest(address operator, uint256 nonce, uint64 expiry) public view returns (bytes32) {
        return _hashTypedDataV4(Digests.hashAllowance(operator, nonce, expiry));
    }

    /// @inheritdoc IOperatorRegistry
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    // --- settings ----------------------------------------------------------------------------------------------------

    /// @inheritdoc Governed
    function _isAllowed(bytes32 name, uint256 subject, uint256 value) internal pure override returns (bool) {
        if (name != ALLOWLIST_SIGNER) revert UnknownChange(name);
        return subject == 0 && value <= type(uint160).max;
    }

    /// @inheritdoc Governed
    function _change(bytes32, uint256, uint256 value) internal override {
        allowlistSigner = address(uint160(value));
    }

    // --- inside: joining ---------------------------------------------------------------------------------------------

    function _requireConsent(address operator, bytes calldata consent) private view {
        if (operator == msg.sender) return;
        if (!_isSignedBy(operator, consentDigest(operator, msg.sender), consent)) {
            revert InvalidConsent(operator, msg.sender);
        }
    }

    function _useAllowance(address operator, Allowance calldata allowance) private {
        address signer = allowlistSigner;
        if (signer == address(0)) return;
        if (block.timestamp > allowance.expiry) revert AllowanceExpired(allowance.expiry);
        mapping(uint256 => uint256) storage used = _usedAllowances[signer];
        (uint256 word, uint256 bit) = (allowance.nonce >> 8, 1 << (allowance.nonce & 0xff));
        if (used[word] & bit != 0) revert AllowanceUsed(allowance.nonce);
        used[word] |= bit;
        bytes32 digest = allowanceDigest(operator, allowance.nonce, allowance.expiry);
        if (!_isSignedBy(signer, digest, allowance.signature)) revert InvalidAllowance(operator);
    }

    /// @dev The key first: an account that runs a contract's code (EIP-7702) has one all the same.
    function _isSignedBy(address signer, bytes32 digest, bytes calldata signature) private view returns (bool) {
        (address recovered, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (problem == ECDSA.RecoverError.NoError && recovered == signer) return true;
        return SignatureChecker.isValidERC1271SignatureNowCalldata(signer, digest, signature);
    }

    function _requireRoles(Registration calldata registration) private pure {
        uint8 roles = registration.roles;
        if (roles == 0 || roles > ALL_ROLES) revert InvalidRoles(roles);
        // Nobody would check it.
        bool hasKey = registration.voteKey.length != 0 || registration.possession.length != 0;
        if (hasKey && roles & ATTESTER == 0) revert UnexpectedVoteKey();
    }

    function _takePeerKey(bytes32 peerKey) private {
        if (peerKey == 0) revert InvalidPeerKey();
        if (_isPeerKeyTaken[peerKey]) revert PeerKeyTaken(peerKey);
        _isPeerKeyTaken[peerKey] = true;
    }

    function _enlist(address operator, uint256 stake, Registration calldata registration) private {
        Totals memory totals = _totals;
        uint32 position = totals.operators;
        uint32 page = totals.pages + 1;
        _totals = Totals(totals.stake + uint128(stake), position + 1, page);
        _listed[position] = page;
        Account storage account = _accounts[operator];
        account.stake = uint96(stake);
        account.position = position;
        account.page = page;
        account.roles = registration.roles;
        if (operator != msg.sender) _exceptions[operator].owner = msg.sender;
        emit OperatorRegistered(
            operator,
            msg.sender,
            registration.roles,
            stake,
            registration.peerKey,
            registration.p2pAddress,
            registration.gatewayUrl
        );
        address receiver = registration.rewardsReceiver;
        if (receiver != address(0) && receiver != msg.sender) {
            _receivers[operator] = receiver;
            emit RewardsReceiverChanged(operator, receiver);
        }
        _writeProfile(page, operator, registration.peerKey, registration.p2pAddress, registration.gatewayUrl);
    }

    function _writeProfile(
        uint32 page,
        address operator,
        bytes32 peerKey,
        string calldata p2pAddress,
        string calldata gatewayUrl
    ) private {
        uint256 longest = bytes(p2pAddress).length;
        if (bytes(gatewayUrl).length > longest) longest = bytes(gatewayUrl).length;
        if (longest > MAX_ENDPOINT_BYTES) revert EndpointTooLong(longest, MAX_ENDPOINT_BYTES);
        ProfilePage.write(page, operator, peerKey, p2pAddress, gatewayUrl);
    }

    // --- inside: stake -----------------------------------------------------------------------------------------------

    /// @dev Tells the tables, if the operator sits there and its power is another.
    function _setStake(address operator, Account storage account, uint256 stake, bool mayRollNow) private {
        uint256 before = account.stake;
        account.stake = uint96(stake);
        _totals.stake = uint128(_totals.stake + stake - before);
        if (account.roles & ATTESTER == 0 || account.withdrawableAt != 0) return;
        uint32 power = _powerOf(stake);
        if (power != _powerOf(before)) tables.setPower(operator, power, mayRollNow);
    }

    function _powerOf(uint256 stake) private view returns (uint32) {
        if (stake < minimumStake) return 0;
        uint256 power = stake / powerUnit;
        return uint32(power < MAX_POWER ? power : MAX_POWER);
    }

    function _requireAtMost(uint256 stake) private pure {
        if (stake > MAX_STAKE) revert StakeTooLarge(stake, MAX_STAKE);
    }

    function _requireWithdrawable(address operator, Account storage account) private view {
        uint64 withdrawableAt = account.withdrawableAt;
        if (withdrawableAt == 0) revert NotLeft(operator);
        if (account.isWithdrawn) revert AlreadyWithdrawn(operator);
        if (block.timestamp < withdrawableAt) revert StillBonded(operator, withdrawableAt);
        uint32 epoch = _exceptions[operator].leftEpoch;
        if (epoch != 0 && !tables.isExpired(epoch)) revert StillInTable(operator, epoch);
        if (account.pendingSlashes != 0) revert SlashPending(operator, account.pendingSlashes);
    }

    /// @dev The last in the list takes the empty place.
    function _unlist(uint32 position) private {
        uint32 last = _totals.operators - 1;
        _totals.operators = last;
        if (position != last) {
            uint32 page = _listed[last];
            _listed[position] = page;
            _accounts[ProfilePage.operatorOf(page)].position = position;
        }
        delete _listed[last];
    }

    // --- inside: accounts --------------------------------------------------------------------------------------------

    function _stayingAccount(address operator) private view returns (Account storage account) {
        account = _accounts[operator];
        if (account.roles == 0) revert NotRegistered(operator);
        if (account.withdrawableAt != 0) revert AlreadyLeft(operator);
    }

    /// @dev For the court alone.
    function _slashableAccount(address operator) private view returns (Account storage account) {
        if (msg.sender != court) revert OnlyCourt(msg.sender);
        account = _accounts[operator];
        if (account.roles == 0) revert NotRegistered(operator);
    }

    function _requireOwner(address operator) private view returns (address owner_) {
        if (_accounts[operator].roles == 0) revert NotRegistered(operator);
        owner_ = _ownerOf(operator);
        if (msg.sender != owner_) revert OnlyOwner(msg.sender, owner_);
    }

    function _requireOwnerOrOperator(address operator) private view {
        if (msg.sender != operator) _requireOwner(operator);
    }

    function _ownerOf(address operator) private view returns (address) {
        address other = _exceptions[operator].owner;
        return other == address(0) ? operator : other;
    }

    function _setReceiver(address operator, address owner_, address receiver) private {
        _receivers[operator] = receiver == owner_ ? address(0) : receiver;
    }

    function _describe(address operator) private view returns (Operator memory described) {
        Account memory account = _accounts[operator];
        described.operator = operator;
        described.owner = _ownerOf(operator);
        described.rewardsReceiver = rewardsReceiverOf(operator);
        described.roles = account.roles;
        described.isActive = account.withdrawableAt == 0 && account.stake >= minimumStake;
        described.withdrawableAt = account.withdrawableAt;
        described.stake = account.stake;
        if (account.roles & ATTESTER != 0) described.voteKey = tables.voteKeyOf(operator);
        (described.peerKey, described.p2pAddress, described.gatewayUrl) = ProfilePage.read(account.page);
    }

    function _requireWithin(string memory name, uint256 value, uint256 smallest, uint256 largest) private pure {
        if (value < smallest || value > largest) revert InvalidSetting(name, value);
    }
}
