// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../Governed.sol";
import {IEpochTables} from "../interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../interfaces/IOperatorRegistry.sol";
import {IOperatorSource} from "../interfaces/IOperatorSource.sol";
import {ISlashingCourt} from "../interfaces/ISlashingCourt.sol";
import {ProfilePage} from "../libraries/ProfilePage.sol";
import {IAVSRegistrar} from "./IAVSRegistrar.sol";
import {IAllocationManager, OperatorSet} from "./IAllocationManager.sol";
import {IDelegationManager} from "./IDelegationManager.sol";
import {IEigenLayerSource} from "./IEigenLayerSource.sol";
import {RegistrationData} from "./RegistrationData.sol";

/// @title Operators whose stake lies in EigenLayer
/// @notice See IEigenLayerSource. This contract is the AVS's registrar and its operator set's slasher.
///
/// **What is slashed never comes here.** EigenLayer keeps the slashed shares in its StrategyManager, where anyone has
/// them burnt or, in a redistributing set, sent to the set's recipient, by `clearBurnOrRedistributableShares` with the
/// slash id of our event SlashSent. The recipient should be the court's vault; harmed requesters get nothing of it.
///
/// **Leaving.** EigenLayer alone lets stake go, and knows nothing of waiting slashes. So the longest dispute about the
/// last vote that a leaver's table could count is over before the deallocation delay is: the constructor checks it. The
/// same holds for who stays and deallocates: only stake that will still be there that far ahead is voting power.
///
/// **The AVS account** can name another registrar at once, take strategies out of the set, and name another slasher
/// after EigenLayer's delay. None of it is in this contract's reach: operators trust that account as EigenLayer's do
/// anywhere, so a timelock should hold it.
/// @dev AllocationManager and tables are trusted; nothing else is called. No money moves here.
contract EigenLayerSource is IEigenLayerSource, Governed {
    // --- constants ---------------------------------------------------------------------------------------------------

    uint8 private constant ATTESTER = 2;
    uint8 private constant ALL_ROLES = 7;
    uint256 private constant MAX_POWER = type(uint32).max;
    uint256 private constant WAD = 1e18;
    /// As in the OperatorRegistry: room for any name, and every node reads everybody's.
    uint256 private constant MAX_ENDPOINT_BYTES = 320;
    /// A slash costs some 300,000 gas a strategy, and has to fit into a transaction (EIP-7825).
    uint256 private constant MAX_STRATEGIES = 16;
    uint256 private constant MAX_STAKE = type(uint128).max;
    uint256 private constant MAX_BLOCK_SECONDS = 1 minutes;
    uint256 private constant MAX_UNBONDING_SECONDS = 365 days;

    // --- storage -----------------------------------------------------------------------------------------------------

    /// One slot. `power` is what the tables were told last; `position` and `page` as in the OperatorRegistry.
    /// `leftEpoch`, 0 for none, may still count who left.
    struct Account {
        uint40 withdrawableAt;
        uint32 leftEpoch;
        uint32 pendingSlashes;
        uint32 position;
        uint32 page;
        uint32 power;
        uint8 roles;
        bool isUnlisted;
    }

    /// @inheritdoc IEigenLayerSource
    IEpochTables public immutable tables;
    /// @inheritdoc IEigenLayerSource
    IAllocationManager public immutable allocationManager;
    /// @inheritdoc IEigenLayerSource
    IDelegationManager public immutable delegationManager;
    /// @inheritdoc IEigenLayerSource
    address public immutable avs;
    /// @inheritdoc IEigenLayerSource
    uint32 public immutable operatorSetId;
    /// @inheritdoc IEigenLayerSource
    uint256 public immutable minimumStake;
    /// @inheritdoc IEigenLayerSource
    uint256 public immutable powerUnit;
    /// @inheritdoc IOperatorSource
    uint64 public immutable unbondingSeconds;
    /// @inheritdoc IEigenLayerSource
    uint32 public immutable lookaheadBlocks;
    /// @inheritdoc IOperatorSource
    address public immutable stakeToken;
    address private immutable _deployer;

    /// @inheritdoc IEigenLayerSource
    address public court;
    uint32 private _pages;
    address[] private _strategies;
    /// Numbers of the profile pages of everybody who is listed.
    uint32[] private _listed;
    mapping(address operator => Account) private _accounts;
    /// Zero: the operator.
    mapping(address operator => address) private _receivers;
    mapping(bytes32 peerKey => bool) private _isPeerKeyTaken;

    // --- constructor, court ------------------------------------------------------------------------------------------

    constructor(Settings memory settings, address owner_, uint64 changeDelay_) Governed(owner_, changeDelay_) {
        _requireCode("tables", address(settings.tables));
        _requireCode("allocationManager", address(settings.allocationManager));
        _requireCode("delegationManager", address(settings.delegationManager));
        if (settings.stakeToken != address(0)) _requireCode("stakeToken", settings.stakeToken);
        _requireWithin("avs", uint160(settings.avs), 1, type(uint160).max);
        _requireWithin("powerUnit", settings.powerUnit, 1, MAX_STAKE);
        // A stake that is enough to vote is worth a vote.
        _requireWithin("minimumStake", settings.minimumStake, settings.powerUnit, MAX_STAKE);
        _requireWithin("blockSeconds", settings.blockSeconds, 1, MAX_BLOCK_SECONDS);
        _requireWithin("unbondingSeconds", settings.unbondingSeconds, 1, MAX_UNBONDING_SECONDS);
        tables = settings.tables;
        allocationManager = settings.allocationManager;
        delegationManager = settings.delegationManager;
        avs = settings.avs;
        operatorSetId = settings.operatorSetId;
        minimumStake = settings.minimumStake;
        powerUnit = settings.powerUnit;
        unbondingSeconds = settings.unbondingSeconds;
        lookaheadBlocks = _lookahead(settings);
        stakeToken = settings.stakeToken;
        _deployer = msg.sender;
        _setStrategies(settings.strategies);
    }

    /// @inheritdoc IEigenLayerSource
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

    // --- joining and leaving, by the AllocationManager ---------------------------------------------------------------

    /// @inheritdoc IAVSRegistrar
    /// @param data see RegistrationData
    function registerOperator(address operator, address avs_, uint32[] calldata operatorSetIds, bytes calldata data)
        external
    {
        _requireNotPaused();
        _requireAllocationManager();
        if (avs_ != avs) revert WrongAvs(avs_, avs);
        if (operatorSetIds.length != 1 || operatorSetIds[0] != operatorSetId) {
            revert WrongOperatorSets(operatorSetIds, operatorSetId);
        }
        _requireAnswerable();
        // For ever: who left does not come back under an address whose old offences may still be shown.
        if (_accounts[operator].roles != 0) revert AlreadyRegistered(operator);
        uint256 stake = stakeOf(operator);
        if (stake < minimumStake) revert StakeTooSmall(stake, minimumStake);
        _enlist(operator, stake, data);
    }

    /// @inheritdoc IAVSRegistrar
    /// @dev Reverts for nobody whom EigenLayer names, or that one could never leave. `unseat` is not tried: who gives
    /// too little gas would be out of EigenLayer and keep its vote (where EigenLayer itself tries, see `refreshPowers`).
    function deregisterOperator(address operator, address avs_, uint32[] calldata operatorSetIds) external {
        _requireAllocationManager();
        if (avs_ != avs) return;
        for (uint256 i = 0; i < operatorSetIds.length; ++i) {
            if (operatorSetIds[i] == operatorSetId) _leave(operator, _accounts[operator]);
        }
    }

    /// @inheritdoc IAVSRegistrar
    function supportsAVS(address avs_) external view returns (bool) {
        return avs_ == avs;
    }

    // --- powers ------------------------------------------------------------------------------------------------------

    /// @inheritdoc IEigenLayerSource
    /// @dev No roll is due at once for stake that leaves by itself: the lookahead covers an epoch and its grace window,
    /// and whoever moves stake to and fro must not roll epochs as fast as blocks. Membership is asked for, because
    /// EigenLayer may have taken a leaver out without our hearing of it: the call to us failed, or the AVS named another
    /// registrar.
    function refreshPowers(address[] calldata operators) external {
        uint256[] memory stakes = _stakesOf(operators);
        for (uint256 i = 0; i < operators.length; ++i) {
            _refresh(operators[i], stakes[i], false);
        }
    }

    // --- slashing ----------------------------------------------------------------------------------------------------

    /// @inheritdoc IOperatorSource
    function holdExit(address operator) external {
        ++_accountForCourt(operator).pendingSlashes;
    }

    /// @inheritdoc IOperatorSource
    function releaseExit(address operator) external {
        --_accountForCourt(operator).pendingSlashes;
    }

    /// @inheritdoc IOperatorSource
    /// @dev Takes the same wad of the operator's allocation in every strategy, and returns 0: nothing comes to the
    /// court. Reverts while EigenLayer has slashing paused or has another slasher; the court's slash waits then.
    function slash(address operator, uint256 wad) external returns (uint256 amount) {
        --_accountForCourt(operator).pendingSlashes;
        if (wad == 0 || wad > WAD) revert InvalidWad(wad);
        address[] memory slashable = _slashableStrategies();
        if (slashable.length == 0 || !allocationManager.isOperatorSlashable(operator, _operatorSet())) {
            emit SlashMissed(operator, wad);
            return 0;
        }
        uint256[] memory wads = new uint256[](slashable.length);
        for (uint256 i = 0; i < wads.length; ++i) {
            wads[i] = wad;
        }
        (uint256 slashId, uint256[] memory shares) = allocationManager.slashOperator(
            avs, IAllocationManager.SlashingParams(operator, operatorSetId, slashable, wads, "ProofOfInference: court")
        );
        emit SlashSent(operator, wad, slashId, slashable, shares);
        _refresh(operator, stakeOf(operator), true);
        return 0;
    }

    // --- changing ----------------------------------------------------------------------------------------------------

    /// @inheritdoc IEigenLayerSource
    function updateEndpoints(address operator, string calldata p2pAddress, string calldata gatewayUrl) external {
        Account storage account = _stayingAccount(operator);
        (bytes32 peerKey,,) = ProfilePage.read(account.page);
        uint32 page = ++_pages;
        account.page = page;
        _listed[account.position] = page;
        emit EndpointsUpdated(operator, p2pAddress, gatewayUrl);
        _writeProfile(page, operator, peerKey, p2pAddress, gatewayUrl);
    }

    /// @inheritdoc IEigenLayerSource
    function rotateVoteKey(address operator, bytes calldata voteKey, bytes calldata possession) external {
        _stayingAccount(operator);
        tables.rotateKey(operator, voteKey, possession);
    }

    /// @inheritdoc IEigenLayerSource
    function setRewardsReceiver(address operator, address receiver) external {
        _requireOwner(operator);
        _setReceiver(operator, receiver);
    }

    /// @inheritdoc IEigenLayerSource
    function unlist(address operator) external {
        Account storage account = _accounts[operator];
        if (account.roles == 0) revert NotRegistered(operator);
        if (account.isUnlisted) revert AlreadyUnlisted(operator);
        uint64 withdrawableAt = account.withdrawableAt;
        if (withdrawableAt == 0) revert NotLeft(operator);
        if (block.timestamp < withdrawableAt) revert StillBonded(operator, withdrawableAt);
        uint32 epoch = account.leftEpoch;
        if (epoch != 0 && !tables.isExpired(epoch)) revert StillInTable(operator, epoch);
        account.isUnlisted = true;
        _unlist(account.position);
        emit OperatorUnlisted(operator);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IEigenLayerSource
    function operatorsFrom(uint256 from, uint256 limit)
        external
        view
        returns (IOperatorRegistry.Operator[] memory list)
    {
        uint256 count = _listed.length;
        uint256 rest = from < count ? count - from : 0;
        address[] memory operators = new address[](limit < rest ? limit : rest);
        for (uint256 i = 0; i < operators.length; ++i) {
            operators[i] = ProfilePage.operatorOf(_listed[from + i]);
        }
        uint256[] memory stakes = _stakesOf(operators);
        list = new IOperatorRegistry.Operator[](operators.length);
        for (uint256 i = 0; i < operators.length; ++i) {
            list[i] = _describe(operators[i], stakes[i]);
        }
    }

    /// @inheritdoc IEigenLayerSource
    function operatorCount() external view returns (uint256) {
        return _listed.length;
    }

    /// @inheritdoc IEigenLayerSource
    function operatorOf(address operator) external view returns (IOperatorRegistry.Operator memory) {
        if (_accounts[operator].roles == 0) revert NotRegistered(operator);
        return _describe(operator, stakeOf(operator));
    }

    /// @inheritdoc IOperatorSource
    function rolesOf(address operator) external view returns (uint8) {
        return _accounts[operator].roles;
    }

    /// @inheritdoc IOperatorSource
    function rewardsReceiverOf(address operator) public view returns (address) {
        if (_accounts[operator].roles == 0) return address(0);
        address receiver = _receivers[operator];
        return receiver == address(0) ? operator : receiver;
    }

    /// @inheritdoc IEigenLayerSource
    function stakeOf(address operator) public view returns (uint256) {
        address[] memory one = new address[](1);
        one[0] = operator;
        return _stakesOf(one)[0];
    }

    /// @inheritdoc IEigenLayerSource
    function delegatedShares(address operator) external view returns (uint256[] memory) {
        return delegationManager.getOperatorShares(operator, _strategies);
    }

    /// @inheritdoc IEigenLayerSource
    function pendingSlashes(address operator) external view returns (uint256) {
        return _accounts[operator].pendingSlashes;
    }

    /// @inheritdoc IEigenLayerSource
    function strategies() external view returns (address[] memory) {
        return _strategies;
    }

    // --- settings ----------------------------------------------------------------------------------------------------

    /// @inheritdoc Governed
    /// @dev There is nothing to change but the pauser.
    function _isAllowed(bytes32 name, uint256, uint256) internal pure override returns (bool) {
        revert UnknownChange(name);
    }

    /// @inheritdoc Governed
    function _change(bytes32, uint256, uint256) internal pure override {}

    // --- inside: construction ----------------------------------------------------------------------------------------

    /// @dev Who leaves or deallocates now may be in the table until the next roll, at most an epoch away where anybody
    /// rolls, and that table settles votes until its grace window is over; a dispute about the last of them takes
    /// `unbondingSeconds` at most.
    function _lookahead(Settings memory settings) private view returns (uint32) {
        uint256 time =
            uint256(settings.unbondingSeconds) + settings.tables.epochSeconds() + settings.tables.graceSeconds();
        uint256 blocks = (time + settings.blockSeconds - 1) / settings.blockSeconds;
        if (blocks >= settings.allocationManager.DEALLOCATION_DELAY()) {
            revert InvalidSetting("unbondingSeconds", settings.unbondingSeconds);
        }
        return uint32(blocks);
    }

    function _setStrategies(address[] memory strategies_) private {
        _requireWithin("strategies", strategies_.length, 1, MAX_STRATEGIES);
        for (uint256 i = 0; i < strategies_.length; ++i) {
            // As the AllocationManager wants them; and none counts twice.
            if (i != 0 && strategies_[i] <= strategies_[i - 1]) {
                revert InvalidSetting("strategies", uint160(strategies_[i]));
            }
            _requireWithin("strategies", uint160(strategies_[i]), 1, type(uint160).max);
        }
        _strategies = strategies_;
    }

    function _requireCode(string memory name, address account) private view {
        if (account.code.length == 0) revert InvalidSetting(name, uint160(account));
    }

    function _requireWithin(string memory name, uint256 value, uint256 smallest, uint256 largest) private pure {
        if (value < smallest || value > largest) revert InvalidSetting(name, value);
    }

    // --- inside: joining and leaving ---------------------------------------------------------------------------------

    function _requireAllocationManager() private view {
        if (msg.sender != address(allocationManager)) revert OnlyAllocationManager(msg.sender);
    }

    /// @dev Who joins has to be slashable, by a court that is known and final.
    function _requireAnswerable() private view {
        if (court == address(0)) revert CourtNotSet();
        address slasher = allocationManager.getSlasher(_operatorSet());
        if (slasher != address(this)) revert NotSlasher(slasher);
    }

    function _enlist(address operator, uint256 stake, bytes calldata data) private {
        (uint8 roles, address receiver, bytes32 peerKey) = RegistrationData.readHead(data);
        if (roles == 0 || roles > ALL_ROLES) revert InvalidRoles(roles);
        _takePeerKey(peerKey);
        Account storage account = _accounts[operator];
        (account.roles, account.page, account.position) = (roles, ++_pages, uint32(_listed.length));
        _listed.push(account.page);
        _publish(operator, account, stake, peerKey, data);
        if (receiver != address(0)) _setReceiver(operator, receiver);
        if (roles & ATTESTER == 0) return;
        account.power = _powerOf(stake);
        _seat(operator, account.power, data);
    }

    /// @dev Endpoints are the last of the data: that these are whole says that the keys before them are.
    function _publish(address operator, Account storage account, uint256 stake, bytes32 peerKey, bytes calldata data)
        private
    {
        bool hasKeys = account.roles & ATTESTER != 0;
        (string calldata p2pAddress, string calldata gatewayUrl) = RegistrationData.readEndpoints(data, hasKeys);
        emit OperatorRegistered(operator, operator, account.roles, stake, peerKey, p2pAddress, gatewayUrl);
        _writeProfile(account.page, operator, peerKey, p2pAddress, gatewayUrl);
    }

    function _seat(address operator, uint32 power, bytes calldata data) private {
        (bytes calldata voteKey, bytes calldata possession) = RegistrationData.readKeys(data);
        tables.seat(operator, operator, voteKey, possession, power);
    }

    function _takePeerKey(bytes32 peerKey) private {
        if (peerKey == 0) revert InvalidPeerKey();
        if (_isPeerKeyTaken[peerKey]) revert PeerKeyTaken(peerKey);
        _isPeerKeyTaken[peerKey] = true;
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

    function _setReceiver(address operator, address receiver) private {
        _receivers[operator] = receiver == operator ? address(0) : receiver;
        emit RewardsReceiverChanged(operator, receiver == address(0) ? operator : receiver);
    }

    /// @dev Does nothing for strangers, and for who left before.
    function _leave(address operator, Account storage account) private {
        if (account.roles == 0 || account.withdrawableAt != 0) return;
        uint64 withdrawableAt = uint64(block.timestamp) + unbondingSeconds;
        account.withdrawableAt = uint40(withdrawableAt);
        emit OperatorLeft(operator, withdrawableAt);
        if (account.roles & ATTESTER == 0) return;
        account.power = 0;
        // The current table may count it; the next one will not. Zero before the first roll.
        account.leftEpoch = tables.currentEpoch();
        tables.unseat(operator);
    }

    /// @dev The last in the list takes the empty place.
    function _unlist(uint32 position) private {
        uint32 last = _listed[_listed.length - 1];
        _listed[position] = last;
        _accounts[ProfilePage.operatorOf(last)].position = position;
        _listed.pop();
    }

    // --- inside: stake -----------------------------------------------------------------------------------------------

    function _refresh(address operator, uint256 stake, bool mayRollNow) private {
        Account storage account = _accounts[operator];
        if (account.roles == 0 || account.withdrawableAt != 0) return;
        if (!allocationManager.isMemberOfOperatorSet(operator, _operatorSet())) return _leave(operator, account);
        if (account.roles & ATTESTER == 0) return;
        uint32 power = _powerOf(stake);
        if (power == account.power) return;
        account.power = power;
        tables.setPower(operator, power, mayRollNow);
    }

    function _stakesOf(address[] memory operators) private view returns (uint256[] memory stakes) {
        uint256[][] memory found = allocationManager.getMinimumSlashableStake(
            _operatorSet(), operators, _slashableStrategies(), uint32(block.number) + lookaheadBlocks
        );
        stakes = new uint256[](operators.length);
        for (uint256 i = 0; i < operators.length; ++i) {
            for (uint256 j = 0; j < found[i].length; ++j) {
                stakes[i] += found[i][j];
            }
        }
    }

    /// @dev Ours that are in the operator set. The AVS may take one out; EigenLayer would refuse a slash that names it,
    /// and stake that cannot be slashed must not vote.
    function _slashableStrategies() private view returns (address[] memory slashable) {
        slashable = _strategies;
        address[] memory present = allocationManager.getStrategiesInOperatorSet(_operatorSet());
        uint256 count = 0;
        for (uint256 i = 0; i < slashable.length; ++i) {
            if (_isAmong(slashable[i], present)) slashable[count++] = slashable[i];
        }
        assembly ("memory-safe") {
            mstore(slashable, count)
        }
    }

    function _isAmong(address strategy, address[] memory list) private pure returns (bool) {
        for (uint256 i = 0; i < list.length; ++i) {
            if (list[i] == strategy) return true;
        }
        return false;
    }

    function _powerOf(uint256 stake) private view returns (uint32) {
        if (stake < minimumStake) return 0;
        uint256 power = stake / powerUnit;
        return uint32(power < MAX_POWER ? power : MAX_POWER);
    }

    function _operatorSet() private view returns (OperatorSet memory) {
        return OperatorSet(avs, operatorSetId);
    }

    // --- inside: accounts --------------------------------------------------------------------------------------------

    /// @dev Of the caller, who has not left.
    function _stayingAccount(address operator) private view returns (Account storage account) {
        _requireOwner(operator);
        account = _accounts[operator];
        if (account.withdrawableAt != 0) revert AlreadyLeft(operator);
    }

    function _requireOwner(address operator) private view {
        if (_accounts[operator].roles == 0) revert NotRegistered(operator);
        if (msg.sender != operator) revert OnlyOwner(msg.sender, operator);
    }

    function _accountForCourt(address operator) private view returns (Account storage account) {
        if (msg.sender != court) revert OnlyCourt(msg.sender);
        account = _accounts[operator];
        if (account.roles == 0) revert NotRegistered(operator);
    }

    function _describe(address operator, uint256 stake)
        private
        view
        returns (IOperatorRegistry.Operator memory described)
    {
        Account memory account = _accounts[operator];
        described.operator = operator;
        described.owner = operator;
        described.rewardsReceiver = rewardsReceiverOf(operator);
        described.roles = account.roles;
        described.isActive = account.withdrawableAt == 0 && stake >= minimumStake;
        described.withdrawableAt = account.withdrawableAt;
        described.stake = stake;
        if (account.roles & ATTESTER != 0) described.voteKey = tables.voteKeyOf(operator);
        (described.peerKey, described.p2pAddress, described.gatewayUrl) = ProfilePage.read(account.page);
    }
}
