// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {EnumerableSet} from "@openzeppelin/contracts/utils/structs/EnumerableSet.sol";

import {IAVSRegistrar} from "../../src/eigenlayer/IAVSRegistrar.sol";
import {IAllocationManager, OperatorSet} from "../../src/eigenlayer/IAllocationManager.sol";
import {DelegationManagerStandIn} from "./DelegationManagerStandIn.sol";

/// @notice Behaves as EigenLayer's AllocationManager is documented to: operator sets, allocations that take effect after
/// their delays, registration through the AVS's registrar, slashing by the one slasher. Written by us from its
/// published ABI and documents. Appointees (PermissionController) are left out: accounts act for themselves.
contract AllocationManagerStandIn is IAllocationManager {
    using EnumerableSet for EnumerableSet.AddressSet;

    struct CreateSetParamsV2 {
        uint32 operatorSetId;
        address[] strategies;
        address slasher;
    }

    struct RegisterParams {
        address avs;
        uint32[] operatorSetIds;
        bytes data;
    }

    struct DeregisterParams {
        address operator;
        address avs;
        uint32[] operatorSetIds;
    }

    struct AllocateParams {
        OperatorSet operatorSet;
        address[] strategies;
        uint64[] newMagnitudes;
    }

    struct Allocation {
        uint64 currentMagnitude;
        int128 pendingDiff;
        uint32 effectBlock;
    }

    struct Membership {
        bool isMember;
        uint32 slashableUntil;
    }

    struct Slasher {
        address current;
        address pending;
        uint32 effectBlock;
    }

    error CurrentlyPaused();
    error InvalidCaller();
    error InvalidOperator();
    error InvalidOperatorSet();
    error InvalidAVSRegistrar();
    error NonexistentAVSMetadata();
    error AlreadyMemberOfSet();
    error NotMemberOfSet();
    error OperatorNotSlashable();
    error InvalidWadToSlash();
    error InputArrayLengthMismatch();
    error StrategiesMustBeInAscendingOrder();
    error StrategyNotInOperatorSet();
    error SameMagnitude();
    error InsufficientMagnitude();
    error ModificationAlreadyPending();

    address public constant DEFAULT_BURN_ADDRESS = 0x00000000000000000000000000000000000E16E4;
    uint64 private constant FULL = 1e18;

    uint32 public immutable DEALLOCATION_DELAY;
    uint32 public immutable SLASHER_CONFIGURATION_DELAY;
    DelegationManagerStandIn public immutable delegation;

    bool public isPaused;
    /// Older deployments go on when the registrar's deregisterOperator fails.
    bool public swallowsDeregistrationErrors;
    mapping(address avs => bool) private _hasMetadata;
    mapping(address avs => address) public getAVSRegistrar;
    mapping(bytes32 key => bool) public exists;
    mapping(bytes32 key => Slasher) private _slashers;
    mapping(bytes32 key => address) private _recipients;
    mapping(bytes32 key => uint256) private _slashCounts;
    mapping(bytes32 key => EnumerableSet.AddressSet) private _members;
    mapping(bytes32 key => EnumerableSet.AddressSet) private _strategies;
    mapping(address operator => mapping(bytes32 key => Membership)) private _memberships;
    mapping(address operator => uint32) private _allocationDelays;
    /// What slashing took away of the full magnitude; what sets hold of it.
    mapping(address operator => mapping(address strategy => uint64)) private _lost;
    mapping(address operator => mapping(address strategy => uint64)) private _encumbered;
    mapping(address operator => mapping(bytes32 key => mapping(address strategy => Allocation))) private _allocations;

    constructor(DelegationManagerStandIn delegation_, uint32 deallocationDelay, uint32 slasherDelay) {
        (delegation, DEALLOCATION_DELAY, SLASHER_CONFIGURATION_DELAY) = (delegation_, deallocationDelay, slasherDelay);
    }

    // --- for tests ---------------------------------------------------------------------------------------------------

    function pause(bool isPaused_) external {
        isPaused = isPaused_;
    }

    function swallowDeregistrationErrors(bool swallows) external {
        swallowsDeregistrationErrors = swallows;
    }

    // --- the AVS -----------------------------------------------------------------------------------------------------

    function updateAVSMetadataURI(address avs, string calldata) external {
        _requireCaller(avs);
        _hasMetadata[avs] = true;
    }

    function setAVSRegistrar(address avs, address registrar) external {
        _requireCaller(avs);
        if (!IAVSRegistrar(registrar).supportsAVS(avs)) revert InvalidAVSRegistrar();
        getAVSRegistrar[avs] = registrar;
    }

    function createOperatorSets(address avs, CreateSetParamsV2[] calldata params) external {
        _requireCaller(avs);
        for (uint256 i = 0; i < params.length; ++i) {
            _createOperatorSet(avs, params[i], DEFAULT_BURN_ADDRESS);
        }
    }

    function createRedistributingOperatorSets(
        address avs,
        CreateSetParamsV2[] calldata params,
        address[] calldata recipients
    ) external {
        _requireCaller(avs);
        for (uint256 i = 0; i < params.length; ++i) {
            _createOperatorSet(avs, params[i], recipients[i]);
        }
    }

    function _createOperatorSet(address avs, CreateSetParamsV2 calldata params, address recipient) private {
        if (!_hasMetadata[avs]) revert NonexistentAVSMetadata();
        bytes32 key = keyOf(OperatorSet(avs, params.operatorSetId));
        if (exists[key]) revert InvalidOperatorSet();
        exists[key] = true;
        _recipients[key] = recipient;
        _slashers[key].current = params.slasher;
        for (uint256 i = 0; i < params.strategies.length; ++i) {
            _strategies[key].add(params.strategies[i]);
        }
    }

    function removeStrategiesFromOperatorSet(address avs, uint32 id, address[] calldata strategies) external {
        _requireCaller(avs);
        for (uint256 i = 0; i < strategies.length; ++i) {
            if (!_strategies[keyOf(OperatorSet(avs, id))].remove(strategies[i])) revert StrategyNotInOperatorSet();
        }
    }

    function updateSlasher(OperatorSet calldata operatorSet, address slasher) external {
        _requireCaller(operatorSet.avs);
        Slasher storage entry = _slashers[keyOf(operatorSet)];
        entry.current = getSlasher(operatorSet);
        (entry.pending, entry.effectBlock) = (slasher, uint32(block.number) + SLASHER_CONFIGURATION_DELAY);
    }

    // --- operators ---------------------------------------------------------------------------------------------------

    function setAllocationDelay(address operator, uint32 delay) external {
        if (msg.sender != address(delegation)) revert InvalidCaller();
        _allocationDelays[operator] = delay;
    }

    /// @notice An allocation counts after the operator's own delay; a deallocation after DEALLOCATION_DELAY, unless
    /// nobody could slash it.
    function modifyAllocations(address operator, AllocateParams[] calldata params) external {
        _requireCaller(operator);
        for (uint256 i = 0; i < params.length; ++i) {
            for (uint256 j = 0; j < params[i].strategies.length; ++j) {
                _allocate(operator, params[i].operatorSet, params[i].strategies[j], params[i].newMagnitudes[j]);
            }
        }
    }

    function _allocate(address operator, OperatorSet calldata operatorSet, address strategy, uint64 magnitude) private {
        bytes32 key = keyOf(operatorSet);
        if (!exists[key]) revert InvalidOperatorSet();
        Allocation memory allocation = _complete(operator, key, strategy);
        if (allocation.pendingDiff != 0) revert ModificationAlreadyPending();
        int128 diff = int128(uint128(magnitude)) - int128(uint128(allocation.currentMagnitude));
        if (diff == 0) revert SameMagnitude();
        if (diff > 0) {
            _encumbered[operator][strategy] += uint64(uint128(diff));
            if (_encumbered[operator][strategy] > getMaxMagnitude(operator, strategy)) revert InsufficientMagnitude();
            (allocation.pendingDiff, allocation.effectBlock) =
            (diff, uint32(block.number) + _allocationDelays[operator]);
        } else if (isOperatorSlashable(operator, operatorSet) && _strategies[key].contains(strategy)) {
            (allocation.pendingDiff, allocation.effectBlock) = (diff, uint32(block.number) + DEALLOCATION_DELAY);
        } else {
            _encumbered[operator][strategy] -= uint64(uint128(-diff));
            allocation.currentMagnitude = magnitude;
        }
        _allocations[operator][key][strategy] = allocation;
    }

    function registerForOperatorSets(address operator, RegisterParams calldata params) external {
        _requireCaller(operator);
        if (isPaused) revert CurrentlyPaused();
        if (!delegation.isOperator(operator)) revert InvalidOperator();
        for (uint256 i = 0; i < params.operatorSetIds.length; ++i) {
            bytes32 key = keyOf(OperatorSet(params.avs, params.operatorSetIds[i]));
            if (!exists[key]) revert InvalidOperatorSet();
            if (!_members[key].add(operator)) revert AlreadyMemberOfSet();
            _memberships[operator][key].isMember = true;
        }
        IAVSRegistrar(getAVSRegistrar[params.avs])
            .registerOperator(operator, params.avs, params.operatorSetIds, params.data);
    }

    /// @notice The operator, or the AVS that ejects it.
    function deregisterFromOperatorSets(DeregisterParams calldata params) external {
        if (msg.sender != params.operator && msg.sender != params.avs) revert InvalidCaller();
        if (isPaused) revert CurrentlyPaused();
        for (uint256 i = 0; i < params.operatorSetIds.length; ++i) {
            bytes32 key = keyOf(OperatorSet(params.avs, params.operatorSetIds[i]));
            if (!_members[key].remove(params.operator)) revert NotMemberOfSet();
            _memberships[params.operator][key] = Membership(false, uint32(block.number) + DEALLOCATION_DELAY);
        }
        IAVSRegistrar registrar = IAVSRegistrar(getAVSRegistrar[params.avs]);
        if (!swallowsDeregistrationErrors) {
            registrar.deregisterOperator(params.operator, params.avs, params.operatorSetIds);
        } else {
            try registrar.deregisterOperator(params.operator, params.avs, params.operatorSetIds) {} catch {}
        }
    }

    // --- slashing ----------------------------------------------------------------------------------------------------

    function slashOperator(address avs, SlashingParams calldata params)
        external
        returns (uint256 slashId, uint256[] memory shares)
    {
        if (isPaused) revert CurrentlyPaused();
        OperatorSet memory operatorSet = OperatorSet(avs, params.operatorSetId);
        bytes32 key = keyOf(operatorSet);
        if (!exists[key]) revert InvalidOperatorSet();
        if (msg.sender != getSlasher(operatorSet)) revert InvalidCaller();
        if (!isOperatorSlashable(params.operator, operatorSet)) revert OperatorNotSlashable();
        if (params.strategies.length != params.wadsToSlash.length) revert InputArrayLengthMismatch();
        slashId = ++_slashCounts[key];
        shares = new uint256[](params.strategies.length);
        for (uint256 i = 0; i < params.strategies.length; ++i) {
            if (i != 0 && params.strategies[i] <= params.strategies[i - 1]) revert StrategiesMustBeInAscendingOrder();
            if (params.wadsToSlash[i] == 0 || params.wadsToSlash[i] > FULL) revert InvalidWadToSlash();
            if (!_strategies[key].contains(params.strategies[i])) revert StrategyNotInOperatorSet();
            shares[i] = _slash(params.operator, operatorSet, slashId, params.strategies[i], params.wadsToSlash[i]);
        }
    }

    function _slash(address operator, OperatorSet memory operatorSet, uint256 slashId, address strategy, uint256 wad)
        private
        returns (uint256)
    {
        bytes32 key = keyOf(operatorSet);
        Allocation memory allocation = _complete(operator, key, strategy);
        if (allocation.currentMagnitude == 0) return 0;
        uint64 before = getMaxMagnitude(operator, strategy);
        uint64 part = uint64(Math.ceilDiv(allocation.currentMagnitude * wad, FULL));
        allocation.currentMagnitude -= part;
        if (allocation.pendingDiff < 0) {
            // What is on its way out shrinks alike.
            allocation.pendingDiff += int128(
                uint128(Math.ceilDiv(uint256(uint128(-allocation.pendingDiff)) * wad, FULL))
            );
        }
        _allocations[operator][key][strategy] = allocation;
        _lost[operator][strategy] += part;
        _encumbered[operator][strategy] -= part;
        return delegation.slashOperatorShares(operator, operatorSet, slashId, strategy, before, before - part);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    function keyOf(OperatorSet memory operatorSet) public pure returns (bytes32) {
        return bytes32(abi.encodePacked(operatorSet.avs, uint96(operatorSet.id)));
    }

    function getSlasher(OperatorSet memory operatorSet) public view returns (address) {
        Slasher memory entry = _slashers[keyOf(operatorSet)];
        return entry.effectBlock != 0 && block.number >= entry.effectBlock ? entry.pending : entry.current;
    }

    function getRedistributionRecipient(OperatorSet memory operatorSet) external view returns (address) {
        return _recipients[keyOf(operatorSet)];
    }

    function getSlashCount(OperatorSet memory operatorSet) external view returns (uint256) {
        return _slashCounts[keyOf(operatorSet)];
    }

    function getMembers(OperatorSet memory operatorSet) external view returns (address[] memory) {
        return _members[keyOf(operatorSet)].values();
    }

    function getStrategiesInOperatorSet(OperatorSet memory operatorSet) external view returns (address[] memory) {
        return _strategies[keyOf(operatorSet)].values();
    }

    function isMemberOfOperatorSet(address operator, OperatorSet memory operatorSet) public view returns (bool) {
        return _members[keyOf(operatorSet)].contains(operator);
    }

    function isOperatorSlashable(address operator, OperatorSet memory operatorSet) public view returns (bool) {
        Membership memory membership = _memberships[operator][keyOf(operatorSet)];
        return membership.isMember || block.number <= membership.slashableUntil;
    }

    function getMaxMagnitude(address operator, address strategy) public view returns (uint64) {
        return FULL - _lost[operator][strategy];
    }

    function getMinimumSlashableStake(
        OperatorSet memory operatorSet,
        address[] memory operators,
        address[] memory strategies,
        uint32 futureBlock
    ) external view returns (uint256[][] memory stakes) {
        stakes = new uint256[][](operators.length);
        for (uint256 i = 0; i < operators.length; ++i) {
            uint256[] memory shares = delegation.getOperatorShares(operators[i], strategies);
            stakes[i] = new uint256[](strategies.length);
            for (uint256 j = 0; j < strategies.length; ++j) {
                uint64 most = getMaxMagnitude(operators[i], strategies[j]);
                if (most == 0) continue;
                uint256 magnitude = _leastMagnitude(operators[i], keyOf(operatorSet), strategies[j], futureBlock);
                stakes[i][j] = shares[j] * (magnitude * FULL / most) / FULL;
            }
        }
    }

    function _leastMagnitude(address operator, bytes32 key, address strategy, uint32 futureBlock)
        private
        view
        returns (uint256)
    {
        Allocation memory allocation = _updated(operator, key, strategy);
        if (allocation.pendingDiff >= 0 || allocation.effectBlock > futureBlock) return allocation.currentMagnitude;
        return allocation.currentMagnitude - uint128(-allocation.pendingDiff);
    }

    /// @dev With what has taken effect by now.
    function _updated(address operator, bytes32 key, address strategy) private view returns (Allocation memory) {
        Allocation memory allocation = _allocations[operator][key][strategy];
        if (block.number < allocation.effectBlock) return allocation;
        int128 magnitude = int128(uint128(allocation.currentMagnitude)) + allocation.pendingDiff;
        return Allocation(uint64(uint128(magnitude)), 0, 0);
    }

    function _complete(address operator, bytes32 key, address strategy) private returns (Allocation memory allocation) {
        allocation = _updated(operator, key, strategy);
        int128 diff = _allocations[operator][key][strategy].pendingDiff;
        if (diff < 0 && allocation.pendingDiff == 0) _encumbered[operator][strategy] -= uint64(uint128(-diff));
        _allocations[operator][key][strategy] = allocation;
    }

    /// @dev An account acts for itself.
    function _requireCaller(address account) private view {
        if (msg.sender != account) revert InvalidCaller();
    }
}
