// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAllocationManager, OperatorSet} from "../../src/eigenlayer/IAllocationManager.sol";
import {IDelegationManager} from "../../src/eigenlayer/IDelegationManager.sol";
import {IEigenLayerSource} from "../../src/eigenlayer/IEigenLayerSource.sol";
import {IAttestationCenter} from "../../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../../src/interfaces/IOperatorRegistry.sol";
import {ISlashingCourt} from "../../src/interfaces/ISlashingCourt.sol";
import {Keys} from "../Keys.sol";
import {Network} from "../Network.sol";
import {TestCourt} from "../RegistryNetwork.sol";
import {AllocationManagerStandIn} from "./AllocationManagerStandIn.sol";
import {DelegationManagerStandIn} from "./DelegationManagerStandIn.sol";
import {StakedToken, StrategyStandIn} from "./StrategyStandIn.sol";
import {StrategyManagerStandIn} from "./StrategyManagerStandIn.sol";

/// @notice A network whose stake lies in (our stand-ins of) EigenLayer: two strategies, one operator set, which
/// redistributes to the vault. A court at a test's word; `useRealCourt` replaces it before anybody registers.
abstract contract EigenNetwork is Network {
    uint32 internal constant SET_ID = 7;
    uint32 internal constant DEALLOCATION_BLOCKS = 100_800;
    uint32 internal constant SLASHER_BLOCKS = 126_000;
    uint32 internal constant ALLOCATION_BLOCKS = 75;
    uint64 internal constant BLOCK_SECONDS = 12;
    uint64 internal constant UNBONDING = 13 days;
    /// (13 days + an epoch and a grace window of an hour each) / 12 s
    uint32 internal constant LOOKAHEAD = 94_200;
    uint64 internal constant WHOLE = 1e18;
    uint256 internal constant SHARES = 10 ether;

    address internal immutable avs = address(uint160(uint256(keccak256("avs"))));

    AllocationManagerStandIn internal allocations;
    DelegationManagerStandIn internal delegations;
    StrategyManagerStandIn internal deposits;
    /// Ascending, as EigenLayer wants them.
    StrategyStandIn[] internal pools;
    IEigenLayerSource internal source;
    TestCourt internal judge;

    function setUp() public virtual override {
        vm.warp(START);
        vm.roll(1_000_000);
        deployEigenLayer();
        tables = newTables();
        source = deploySource(settings());
        tables.setSource(address(source));
        createOperatorSet(address(source));
        judge = new TestCourt(IOperatorRegistry(address(source)), LONGEST_DISPUTE);
        source.setCourt(address(judge));
    }

    // --- deploying ---------------------------------------------------------------------------------------------------

    function deployEigenLayer() internal {
        delegations = new DelegationManagerStandIn(DEALLOCATION_BLOCKS);
        allocations = new AllocationManagerStandIn(delegations, DEALLOCATION_BLOCKS, SLASHER_BLOCKS);
        deposits = new StrategyManagerStandIn(delegations, allocations);
        delegations.initialize(allocations, deposits);
        delete pools;
        pools.push(new StrategyStandIn(new StakedToken(), address(deposits)));
        pools.push(new StrategyStandIn(new StakedToken(), address(deposits)));
        if (address(pools[0]) > address(pools[1])) (pools[0], pools[1]) = (pools[1], pools[0]);
    }

    function newTables() internal returns (IEpochTables) {
        return IEpochTables(deploy("EpochTables.sol:EpochTables", abi.encode(EPOCH_SECONDS, GRACE_SECONDS)));
    }

    function settings() internal view returns (IEigenLayerSource.Settings memory) {
        return IEigenLayerSource.Settings({
            tables: tables,
            allocationManager: IAllocationManager(address(allocations)),
            delegationManager: IDelegationManager(address(delegations)),
            avs: avs,
            operatorSetId: SET_ID,
            strategies: strategies(),
            minimumStake: MINIMUM_STAKE,
            powerUnit: POWER_UNIT,
            unbondingSeconds: UNBONDING,
            blockSeconds: BLOCK_SECONDS,
            stakeToken: address(0)
        });
    }

    function deploySource(IEigenLayerSource.Settings memory with) internal returns (IEigenLayerSource) {
        bytes memory arguments = abi.encode(with, owner, CHANGE_DELAY);
        return IEigenLayerSource(deploy("EigenLayerSource.sol:EigenLayerSource", arguments));
    }

    /// @dev The AVS's own three calls, with `slasher` for the set's slasher.
    function createOperatorSet(address slasher) internal {
        AllocationManagerStandIn.CreateSetParamsV2[] memory sets = new AllocationManagerStandIn.CreateSetParamsV2[](1);
        sets[0] = AllocationManagerStandIn.CreateSetParamsV2(SET_ID, strategies(), slasher);
        address[] memory recipients = new address[](1);
        recipients[0] = vault;
        vm.startPrank(avs);
        allocations.updateAVSMetadataURI(avs, "https://avs.example");
        allocations.setAVSRegistrar(avs, address(source));
        allocations.createRedistributingOperatorSets(avs, sets, recipients);
        vm.stopPrank();
    }

    /// @dev All anew, with the real center and court.
    function useRealCourt() internal {
        deployEigenLayer();
        tables = newTables();
        source = deploySource(settings());
        createOperatorSet(address(source));
        center = IAttestationCenter(
            deploy("AttestationCenter.sol:AttestationCenter", abi.encode(tables, source, owner, CHANGE_DELAY))
        );
        court = ISlashingCourt(
            deploy(
                "SlashingCourt.sol:SlashingCourt",
                abi.encode(center, vault, VETO_DELAY, LONGEST_DISPUTE, owner, CHANGE_DELAY)
            )
        );
        tables.setSource(address(source));
        source.setCourt(address(court));
        center.setCourt(address(court));
    }

    // --- EigenLayer's words ------------------------------------------------------------------------------------------

    function strategies() internal view returns (address[] memory list) {
        list = new address[](2);
        (list[0], list[1]) = (address(pools[0]), address(pools[1]));
    }

    function operatorSet() internal view returns (OperatorSet memory) {
        return OperatorSet(avs, SET_ID);
    }

    function ids(uint32 id) internal pure returns (uint32[] memory list) {
        list = new uint32[](1);
        list[0] = id;
    }

    function only(address operator) internal pure returns (address[] memory list) {
        list = new address[](1);
        list[0] = operator;
    }

    /// @dev Blocks with their time.
    function pass(uint256 blocks) internal {
        vm.roll(block.number + blocks);
        vm.warp(block.timestamp + blocks * BLOCK_SECONDS);
    }

    // --- operators ---------------------------------------------------------------------------------------------------

    /// @dev What operator `id` says of itself; with a vote key if it attests.
    function dataOf(uint256 id, uint8 roles) internal view returns (bytes memory) {
        return dataWith(id, roles, address(0), peerKeyOf(id), "/ip4/127.0.0.1/tcp/9700", "http://node:8700");
    }

    function dataWith(
        uint256 id,
        uint8 roles,
        address receiver,
        bytes32 peerKey,
        string memory p2pAddress,
        string memory gatewayUrl
    ) internal view returns (bytes memory) {
        bytes memory keys;
        if (roles & ATTESTER != 0) {
            keys = abi.encodePacked(Keys.publicKey(voteSecret(id)), possessionOf(id, accountOf(id)));
        }
        uint16 length = uint16(bytes(p2pAddress).length);
        return abi.encodePacked(roles, receiver, peerKey, keys, length, p2pAddress, gatewayUrl);
    }

    /// @dev An EigenLayer operator with `shares` of its own in each strategy.
    function becomeOperator(uint256 id, uint256 shares) internal returns (address account) {
        account = accountOf(id);
        idOf[account] = id;
        vm.prank(account);
        delegations.registerAsOperator(address(0), ALLOCATION_BLOCKS, "");
        for (uint256 i = 0; i < pools.length; ++i) {
            deposit(account, i, shares);
        }
    }

    function deposit(address staker, uint256 pool, uint256 shares) internal {
        StakedToken token = StakedToken(address(pools[pool].underlyingToken()));
        token.mint(staker, shares);
        vm.startPrank(staker);
        token.approve(address(deposits), shares);
        deposits.depositIntoStrategy(address(pools[pool]), address(token), shares);
        vm.stopPrank();
    }

    /// @dev Asks for these parts of its stake to be slashable in our set.
    function allocate(address account, uint64 first, uint64 second) internal {
        AllocationManagerStandIn.AllocateParams[] memory params = new AllocationManagerStandIn.AllocateParams[](1);
        uint64[] memory magnitudes = new uint64[](2);
        (magnitudes[0], magnitudes[1]) = (first, second);
        params[0] = AllocationManagerStandIn.AllocateParams(operatorSet(), strategies(), magnitudes);
        vm.prank(account);
        allocations.modifyAllocations(account, params);
    }

    function register(address account, bytes memory data) internal {
        vm.prank(account);
        allocations.registerForOperatorSets(account, AllocationManagerStandIn.RegisterParams(avs, ids(SET_ID), data));
    }

    /// @dev Operator `id` with `SHARES` in each strategy, all of it allocated, registered through EigenLayer.
    function enlist(uint256 id, uint8 roles) internal returns (address account) {
        account = becomeOperator(id, SHARES);
        allocate(account, WHOLE, WHOLE);
        pass(ALLOCATION_BLOCKS);
        register(account, dataOf(id, roles));
    }

    function deregister(address account) internal {
        vm.prank(account);
        allocations.deregisterFromOperatorSets(AllocationManagerStandIn.DeregisterParams(account, avs, ids(SET_ID)));
    }

    function withdrawShares(address account, uint256 pool, uint256 shares) internal {
        vm.prank(account);
        delegations.queueWithdrawal(address(pools[pool]), shares);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    /// @dev The power that the next table will hold: of a roll that is undone.
    function nextPowerOf(address operator) internal returns (uint256 power) {
        uint256 state = vm.snapshotState();
        power = powerIn(roll(), operator);
        vm.revertToState(state);
    }

    function powerIn(uint32 epoch, address operator) internal view returns (uint256) {
        (address[] memory members,, uint64[] memory powers) = tables.tableOf(epoch, 0);
        for (uint256 i = 0; i < members.length; ++i) {
            if (members[i] == operator) return powers[i];
        }
        return 0;
    }
}
