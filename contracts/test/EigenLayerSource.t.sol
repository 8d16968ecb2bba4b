// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../src/Governed.sol";
import {IEigenLayerSource} from "../src/eigenlayer/IEigenLayerSource.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Keys} from "./Keys.sol";
import {TestCourt} from "./RegistryNetwork.sol";
import {AllocationManagerStandIn} from "./eigenlayer/AllocationManagerStandIn.sol";
import {EigenNetwork} from "./eigenlayer/EigenNetwork.sol";

/// @notice Deploying, joining through EigenLayer, leaving, and what operators change of themselves. Branches:
/// tree/{eigenLayerSource,registerOperator,deregisterOperator,unlist}.tree.
contract EigenLayerSourceTest is EigenNetwork {
    uint256 private constant ID = 1;
    uint256 private constant OTHER = 2;
    uint256 private constant POWER = 2 * SHARES / POWER_UNIT;
    address private immutable stranger = address(uint160(uint256(keccak256("stranger"))));

    // --- constructor -------------------------------------------------------------------------------------------------

    function test_eigenLayerSource_KeepsItsSettings() public view {
        assertEq(address(source.tables()), address(tables), "tables");
        assertEq(address(source.allocationManager()), address(allocations), "AllocationManager");
        assertEq(address(source.delegationManager()), address(delegations), "DelegationManager");
        assertEq(source.avs(), avs, "AVS");
        assertEq(source.operatorSetId(), SET_ID, "set");
        assertEq(abi.encode(source.strategies()), abi.encode(strategies()), "strategies");
        assertEq(source.minimumStake(), MINIMUM_STAKE, "minimum stake");
        assertEq(source.powerUnit(), POWER_UNIT, "power unit");
        assertEq(source.unbondingSeconds(), UNBONDING, "unbonding");
        assertEq(source.lookaheadBlocks(), LOOKAHEAD, "lookahead");
        assertEq(source.stakeToken(), address(0), "stake token");
        assertEq(source.court(), address(judge), "court");
        assertEq(source.operatorCount(), 0, "nobody");
        assertTrue(source.supportsAVS(avs), "our AVS");
        assertTrue(!source.supportsAVS(stranger), "another AVS");
    }

    function test_eigenLayerSource_RefusesAddressesWithoutCode() public {
        IEigenLayerSource.Settings memory with = settings();
        with.tables = IEpochTables(stranger);
        _expectRefusal(with, "tables", uint160(stranger));
        with = settings();
        address none = address(0);
        assembly ("memory-safe") {
            mstore(add(with, 32), none)
        }
        _expectRefusal(with, "allocationManager", 0);
        with = settings();
        assembly ("memory-safe") {
            mstore(add(with, 64), none)
        }
        _expectRefusal(with, "delegationManager", 0);
        with = settings();
        with.stakeToken = stranger;
        _expectRefusal(with, "stakeToken", uint160(stranger));
        with = settings();
        with.avs = address(0);
        _expectRefusal(with, "avs", 0);
    }

    function test_eigenLayerSource_BoundsItsNumbers() public {
        uint256 most = type(uint128).max;
        IEigenLayerSource.Settings memory with = settings();
        with.powerUnit = 0;
        _expectRefusal(with, "powerUnit", 0);
        with.powerUnit = most + 1;
        _expectRefusal(with, "powerUnit", most + 1);
        with = settings();
        with.minimumStake = POWER_UNIT - 1;
        _expectRefusal(with, "minimumStake", POWER_UNIT - 1);
        with.minimumStake = most + 1;
        _expectRefusal(with, "minimumStake", most + 1);
        with = settings();
        with.blockSeconds = 0;
        _expectRefusal(with, "blockSeconds", 0);
        with.blockSeconds = 61;
        _expectRefusal(with, "blockSeconds", 61);
        with = settings();
        with.unbondingSeconds = 0;
        _expectRefusal(with, "unbondingSeconds", 0);
        with.unbondingSeconds = 365 days + 1;
        _expectRefusal(with, "unbondingSeconds", 365 days + 1);
    }

    function test_eigenLayerSource_RefusesADisputeThatOutlivesTheDeallocation() public {
        // An epoch, a grace window and the dispute take one second less than the deallocation at the most.
        uint64 most = uint64(DEALLOCATION_BLOCKS - 1) * BLOCK_SECONDS - EPOCH_SECONDS - GRACE_SECONDS;
        IEigenLayerSource.Settings memory with = settings();
        with.unbondingSeconds = most + 1;
        _expectRefusal(with, "unbondingSeconds", most + 1);
        with.unbondingSeconds = most;
        assertEq(deploySource(with).lookaheadBlocks(), DEALLOCATION_BLOCKS - 1, "lookahead");
    }

    function test_eigenLayerSource_RefusesStrategiesThatAreNoneTooManyOrUnsorted() public {
        IEigenLayerSource.Settings memory with = settings();
        with.strategies = new address[](0);
        _expectRefusal(with, "strategies", 0);
        with.strategies = new address[](17);
        _expectRefusal(with, "strategies", 17);
        with.strategies = new address[](2);
        _expectRefusal(with, "strategies", 0);
        with.strategies = new address[](2);
        (with.strategies[0], with.strategies[1]) = (address(pools[1]), address(pools[0]));
        _expectRefusal(with, "strategies", uint160(address(pools[0])));
        (with.strategies[0], with.strategies[1]) = (address(pools[1]), address(pools[1]));
        _expectRefusal(with, "strategies", uint160(address(pools[1])));
    }

    function test_eigenLayerSource_HasNothingToChangeButThePauser() public {
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(Governed.UnknownChange.selector, bytes32("minimumStake")));
        Governed(address(source)).announceChange("minimumStake", 0, 1);
        vm.prank(owner);
        Governed(address(source)).announceChange("pauser", 0, uint160(stranger));
    }

    function deployForTest(IEigenLayerSource.Settings calldata with) external returns (address) {
        return address(deploySource(with));
    }

    function _expectRefusal(IEigenLayerSource.Settings memory with, string memory name, uint256 value) private {
        vm.expectRevert(abi.encodeWithSelector(IEigenLayerSource.InvalidSetting.selector, name, value));
        this.deployForTest(with);
    }

    // --- setCourt ----------------------------------------------------------------------------------------------------

    function test_eigenLayerSource_SetsTheCourtOnce() public {
        IEigenLayerSource fresh = deploySource(settings());
        TestCourt good = new TestCourt(IOperatorRegistry(address(fresh)), UNBONDING);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IEigenLayerSource.OnlyDeployer.selector, stranger));
        fresh.setCourt(address(good));
        vm.expectRevert(abi.encodeWithSelector(IEigenLayerSource.InvalidCourt.selector, stranger));
        fresh.setCourt(stranger);
        vm.expectRevert(abi.encodeWithSelector(IEigenLayerSource.InvalidCourt.selector, address(judge)));
        fresh.setCourt(address(judge));
        TestCourt slow = new TestCourt(IOperatorRegistry(address(fresh)), UNBONDING + 1);
        vm.expectRevert(abi.encodeWithSelector(IEigenLayerSource.InvalidCourt.selector, address(slow)));
        fresh.setCourt(address(slow));

        vm.expectEmit(address(fresh));
        emit IEigenLayerSource.CourtSet(address(good));
        fresh.setCourt(address(good));
        vm.expectRevert(abi.encodeWithSelector(IEigenLayerSource.CourtAlreadySet.selector, address(good)));
        fresh.setCourt(address(good));
    }

    // --- registerOperator: who and where -----------------------------------------------------------------------------

    function _ready(uint256 id) private returns (address account) {
        account = becomeOperator(id, SHARES);
        allocate(account, WHOLE, WHOLE);
        pass(ALLOCATION_BLOCKS);
    }

    function _expect(bytes memory error) private {
        vm.expectRevert(error);
    }

    function test_registerOperator_RevertsWhilePaused() public {
        address account = _ready(ID);
        vm.prank(owner);
        Governed(address(source)).pause(true);
        bytes memory data = dataOf(ID, PERFORMER);
        _expect(abi.encodeWithSelector(Governed.Paused.selector, uint64(block.timestamp + 7 days)));
        this.registerForTest(account, data);
    }

    /// @dev So that the revert is that of the whole call.
    function registerForTest(address account, bytes calldata data) external {
        register(account, data);
    }

    function test_registerOperator_RevertsForAnybodyButTheAllocationManager() public {
        address account = _ready(ID);
        bytes memory data = dataOf(ID, PERFORMER);
        vm.prank(account);
        _expect(abi.encodeWithSelector(IEigenLayerSource.OnlyAllocationManager.selector, account));
        source.registerOperator(account, avs, ids(SET_ID), data);
    }

    function test_registerOperator_RevertsForAnotherAvs() public {
        vm.prank(address(allocations));
        _expect(abi.encodeWithSelector(IEigenLayerSource.WrongAvs.selector, stranger, avs));
        source.registerOperator(accountOf(ID), stranger, ids(SET_ID), "");
    }

    function test_registerOperator_RevertsForAnyOtherSets() public {
        _expectWrongSets(new uint32[](0));
        _expectWrongSets(ids(SET_ID + 1));
        uint32[] memory both = new uint32[](2);
        (both[0], both[1]) = (SET_ID, SET_ID + 1);
        _expectWrongSets(both);
    }

    function _expectWrongSets(uint32[] memory sets) private {
        vm.prank(address(allocations));
        _expect(abi.encodeWithSelector(IEigenLayerSource.WrongOperatorSets.selector, sets, SET_ID));
        source.registerOperator(accountOf(ID), avs, sets, "");
    }

    function test_registerOperator_RevertsBeforeTheCourtIsSet() public {
        source = deploySource(settings());
        vm.prank(avs);
        allocations.setAVSRegistrar(avs, address(source));
        address account = _ready(ID);
        bytes memory data = dataOf(ID, PERFORMER);
        _expect(abi.encodeWithSelector(IEigenLayerSource.CourtNotSet.selector));
        this.registerForTest(account, data);
    }

    function test_registerOperator_RevertsWhenAnotherMaySlashTheSet() public {
        address account = _ready(ID);
        bytes memory data = dataOf(ID, PERFORMER);
        vm.prank(avs);
        allocations.updateSlasher(operatorSet(), stranger);
        pass(SLASHER_BLOCKS);
        _expect(abi.encodeWithSelector(IEigenLayerSource.NotSlasher.selector, stranger));
        this.registerForTest(account, data);
    }

    function test_registerOperator_RevertsForWhoRegisteredBefore() public {
        address account = enlist(ID, PERFORMER);
        vm.prank(address(allocations));
        _expect(abi.encodeWithSelector(IEigenLayerSource.AlreadyRegistered.selector, account));
        source.registerOperator(account, avs, ids(SET_ID), "");
    }

    function test_registerOperator_RevertsForWhoLeft() public {
        address account = enlist(ID, PERFORMER);
        deregister(account);
        bytes memory data = dataOf(ID, PERFORMER);
        _expect(abi.encodeWithSelector(IEigenLayerSource.AlreadyRegistered.selector, account));
        this.registerForTest(account, data);
    }

    function test_registerOperator_RevertsBelowTheMinimumStake() public {
        address account = becomeOperator(ID, SHARES);
        bytes memory data = dataOf(ID, PERFORMER);
        _expect(abi.encodeWithSelector(IEigenLayerSource.StakeTooSmall.selector, 0, MINIMUM_STAKE));
        this.registerForTest(account, data);

        // 1e18 - 1e14 wei of each kind of magnitude would be enough together; pending, it is nothing.
        allocate(account, WHOLE / 20, WHOLE / 20);
        _expect(abi.encodeWithSelector(IEigenLayerSource.StakeTooSmall.selector, 0, MINIMUM_STAKE));
        this.registerForTest(account, data);
        pass(ALLOCATION_BLOCKS);
        withdrawShares(account, 1, 20);
        _expect(abi.encodeWithSelector(IEigenLayerSource.StakeTooSmall.selector, MINIMUM_STAKE - 1, MINIMUM_STAKE));
        this.registerForTest(account, data);
        deposit(account, 0, 20);
        register(account, data);
        assertEq(source.stakeOf(account), MINIMUM_STAKE, "exactly the minimum is enough");
    }

    // --- registerOperator: its data ----------------------------------------------------------------------------------

    function test_registerOperator_RevertsForShortData() public {
        address account = _ready(ID);
        _expectTooShort(account, "", 53);
        bytes memory head = abi.encodePacked(PERFORMER, address(0), peerKeyOf(ID));
        _expectTooShort(account, _cut(head, 52), 53);
        _expectTooShort(account, head, 55);
        _expectTooShort(account, abi.encodePacked(head, hex"00"), 55);
        _expectTooShort(account, abi.encodePacked(head, hex"0003", "ab"), 58);
        head[0] = bytes1(ATTESTER);
        _expectTooShort(account, head, 343);
        _expectTooShort(account, abi.encodePacked(head, new bytes(288), hex"00"), 343);
        _expectTooShort(account, abi.encodePacked(head, new bytes(288), hex"ffff"), 343 + 65_535);
    }

    function _expectTooShort(address account, bytes memory data, uint256 minimum) private {
        _expect(abi.encodeWithSelector(IEigenLayerSource.RegistrationLength.selector, data.length, minimum));
        this.registerForTest(account, data);
    }

    function _cut(bytes memory data, uint256 length) private pure returns (bytes memory shorter) {
        shorter = new bytes(length);
        for (uint256 i = 0; i < length; ++i) {
            shorter[i] = data[i];
        }
    }

    function test_registerOperator_RevertsForUnknownRoles() public {
        address account = _ready(ID);
        for (uint8 roles = 0; roles <= 8; roles += 8) {
            bytes memory data = dataOf(ID, roles);
            _expect(abi.encodeWithSelector(IEigenLayerSource.InvalidRoles.selector, roles));
            this.registerForTest(account, data);
        }
    }

    function test_registerOperator_RevertsForAPeerKeyThatIsZeroOrTaken() public {
        enlist(OTHER, PERFORMER);
        address account = _ready(ID);
        bytes memory data = dataWith(ID, PERFORMER, address(0), 0, "", "");
        _expect(abi.encodeWithSelector(IEigenLayerSource.InvalidPeerKey.selector));
        this.registerForTest(account, data);
        data = dataWith(ID, PERFORMER, address(0), peerKeyOf(OTHER), "", "");
        _expect(abi.encodeWithSelector(IEigenLayerSource.PeerKeyTaken.selector, peerKeyOf(OTHER)));
        this.registerForTest(account, data);
    }

    function test_registerOperator_BoundsTheEndpoints() public {
        address account = _ready(ID);
        string memory longest = string(new bytes(320));
        string memory longer = string(new bytes(321));
        bytes memory data = dataWith(ID, PERFORMER, address(0), peerKeyOf(ID), longer, "");
        _expect(abi.encodeWithSelector(IEigenLayerSource.EndpointTooLong.selector, 321, 320));
        this.registerForTest(account, data);
        data = dataWith(ID, PERFORMER, address(0), peerKeyOf(ID), "", longer);
        _expect(abi.encodeWithSelector(IEigenLayerSource.EndpointTooLong.selector, 321, 320));
        this.registerForTest(account, data);
        register(account, dataWith(ID, PERFORMER, address(0), peerKeyOf(ID), longest, longest));
        assertEq(bytes(source.operatorOf(account).gatewayUrl), bytes(longest), "gateway");
    }

    function test_registerOperator_RevertsForAnothersPossession() public {
        address account = _ready(ID);
        bytes memory key = Keys.publicKey(voteSecret(OTHER));
        bytes memory data = abi.encodePacked(
            ATTESTER, address(0), peerKeyOf(ID), key, possessionOf(OTHER, accountOf(OTHER)), uint16(0)
        );
        _expect(abi.encodeWithSelector(IEpochTables.PossessionMismatch.selector, account, keccak256(key)));
        this.registerForTest(account, data);
    }

    function test_registerOperator_RevertsForATakenVoteKey() public {
        enlist(OTHER, ATTESTER);
        address account = _ready(ID);
        bytes memory key = Keys.publicKey(voteSecret(OTHER));
        bytes memory data =
            abi.encodePacked(ATTESTER, address(0), peerKeyOf(ID), key, possessionOf(OTHER, account), uint16(0));
        _expect(abi.encodeWithSelector(IEpochTables.VoteKeyTaken.selector, keccak256(key)));
        this.registerForTest(account, data);
    }

    // --- registerOperator: done --------------------------------------------------------------------------------------

    function test_registerOperator_SeatsAnAttester() public {
        address account = _ready(ID);
        bytes memory data = dataOf(ID, ATTESTER | AGGREGATOR);
        vm.expectEmit(address(source));
        emit IEigenLayerSource.OperatorRegistered(
            account,
            account,
            ATTESTER | AGGREGATOR,
            2 * SHARES,
            peerKeyOf(ID),
            "/ip4/127.0.0.1/tcp/9700",
            "http://node:8700"
        );
        vm.expectEmit(address(tables));
        emit IEpochTables.AttesterSeated(account, account, 0, Keys.publicKey(voteSecret(ID)));
        vm.expectEmit(address(tables));
        emit IEpochTables.PowerChanged(account, 0, uint32(POWER));
        register(account, data);

        assertEq(source.rolesOf(account), ATTESTER | AGGREGATOR, "roles");
        assertEq(source.rewardsReceiverOf(account), account, "receiver");
        assertEq(powerIn(roll(), account), POWER, "power");
        IOperatorRegistry.Operator memory found = source.operatorOf(account);
        assertEq(found.operator, account, "operator");
        assertEq(found.owner, account, "owner");
        assertEq(found.rewardsReceiver, account, "described receiver");
        assertEq(found.roles, ATTESTER | AGGREGATOR, "described roles");
        assertTrue(found.isActive, "active");
        assertEq(found.withdrawableAt, 0, "stays");
        assertEq(found.stake, 2 * SHARES, "stake");
        assertEq(found.peerKey, peerKeyOf(ID), "peer key");
        assertEq(found.voteKey, Keys.publicKey(voteSecret(ID)), "vote key");
        assertEq(bytes(found.p2pAddress), "/ip4/127.0.0.1/tcp/9700", "p2p address");
        assertEq(bytes(found.gatewayUrl), "http://node:8700", "gateway");
        uint256[] memory delegated = source.delegatedShares(account);
        assertEq(delegated.length, 2, "strategies");
        assertEq(delegated[0], SHARES, "delegated");
        assertEq(delegated[1], SHARES, "delegated of the other");
    }

    function test_registerOperator_TakesAPerformerWithoutVoteKey() public {
        address account = _ready(ID);
        bytes memory data = dataWith(ID, PERFORMER, stranger, peerKeyOf(ID), "", "http://door");
        vm.expectEmit(address(source));
        emit IEigenLayerSource.RewardsReceiverChanged(account, stranger);
        register(account, data);
        assertEq(source.rolesOf(account), PERFORMER, "roles");
        assertEq(source.rewardsReceiverOf(account), stranger, "receiver");
        assertEq(source.operatorOf(account).voteKey.length, 0, "no vote key");
        assertEq(bytes(source.operatorOf(account).p2pAddress).length, 0, "no p2p address");
        assertEq(bytes(source.operatorOf(account).gatewayUrl), "http://door", "gateway");
        (address[] memory members,,) = tables.tableOf(roll(), 0);
        assertEq(members.length, 0, "nobody votes");
    }

    function test_registerOperator_KnowsNoStrangers() public {
        assertEq(source.rolesOf(stranger), 0, "roles");
        assertEq(source.rewardsReceiverOf(stranger), address(0), "receiver");
        _expect(abi.encodeWithSelector(IEigenLayerSource.NotRegistered.selector, stranger));
        source.operatorOf(stranger);
    }

    function test_registerOperator_ListsInPages() public {
        for (uint256 id = 1; id <= 3; ++id) {
            enlist(id, PERFORMER);
        }
        assertEq(source.operatorCount(), 3, "three");
        assertEq(source.operatorsFrom(0, 2).length, 2, "first page");
        assertEq(source.operatorsFrom(2, 2).length, 1, "last page");
        assertEq(source.operatorsFrom(2, 2)[0].operator, accountOf(3), "the last");
        assertEq(source.operatorsFrom(3, 2).length, 0, "beyond");
        assertEq(source.operatorsFrom(1, 1)[0].stake, 2 * SHARES, "stake");
    }

    // --- deregisterOperator ------------------------------------------------------------------------------------------

    function test_deregisterOperator_RevertsForAnybodyButTheAllocationManager() public {
        address account = enlist(ID, PERFORMER);
        vm.prank(account);
        _expect(abi.encodeWithSelector(IEigenLayerSource.OnlyAllocationManager.selector, account));
        source.deregisterOperator(account, avs, ids(SET_ID));
    }

    function test_deregisterOperator_IgnoresOtherSetsAvsesAndStrangers() public {
        address account = enlist(ID, ATTESTER);
        vm.startPrank(address(allocations));
        source.deregisterOperator(account, stranger, ids(SET_ID));
        source.deregisterOperator(account, avs, ids(SET_ID + 1));
        source.deregisterOperator(account, avs, new uint32[](0));
        source.deregisterOperator(stranger, avs, ids(SET_ID));
        vm.stopPrank();
        assertEq(source.operatorOf(account).withdrawableAt, 0, "stays");
        assertEq(source.rolesOf(stranger), 0, "a stranger");
        assertEq(nextPowerOf(account), POWER, "votes");
    }

    function test_deregisterOperator_UnseatsAnAttester() public {
        address account = enlist(ID, ATTESTER);
        uint32 epoch = roll();
        assertTrue(tables.rollableAt() > block.timestamp, "not due");
        uint64 withdrawableAt = uint64(block.timestamp) + UNBONDING;
        vm.expectEmit(address(source));
        emit IEigenLayerSource.OperatorLeft(account, withdrawableAt);
        vm.expectEmit(address(tables));
        emit IEpochTables.AttesterUnseated(account, 0);
        deregister(account);
        assertTrue(tables.rollableAt() <= block.timestamp, "due at once");
        assertEq(powerIn(epoch, account), POWER, "the old table keeps its vote");
        assertEq(powerIn(roll(), account), 0, "the next has none");
        IOperatorRegistry.Operator memory found = source.operatorOf(account);
        assertEq(found.withdrawableAt, withdrawableAt, "withdrawable");
        assertTrue(!found.isActive, "not active");
        assertEq(source.rolesOf(account), ATTESTER, "answerable for ever");
        assertEq(source.operatorCount(), 1, "still listed");
    }

    function test_deregisterOperator_LetsAPerformerGo() public {
        address account = enlist(ID, PERFORMER);
        deregister(account);
        assertEq(source.operatorOf(account).withdrawableAt, block.timestamp + UNBONDING, "withdrawable");
    }

    function test_deregisterOperator_CanBeCalledTwice() public {
        address account = enlist(ID, ATTESTER);
        uint32[] memory twice = new uint32[](2);
        (twice[0], twice[1]) = (SET_ID, SET_ID);
        vm.prank(address(allocations));
        source.deregisterOperator(account, avs, twice);
        uint64 withdrawableAt = source.operatorOf(account).withdrawableAt;
        pass(5);
        deregister(account);
        assertEq(source.operatorOf(account).withdrawableAt, withdrawableAt, "once");
    }

    function test_deregisterOperator_LetsGoWhoHasASlashWaiting() public {
        address account = enlist(ID, ATTESTER);
        judge.hold(account);
        deregister(account);
        assertEq(source.operatorOf(account).withdrawableAt, block.timestamp + UNBONDING, "left");
        assertEq(source.pendingSlashes(account), 1, "still waiting");
    }

    function test_deregisterOperator_LetsGoWhilePaused() public {
        address account = enlist(ID, ATTESTER);
        vm.prank(owner);
        Governed(address(source)).pause(true);
        deregister(account);
        assertEq(source.operatorOf(account).withdrawableAt, block.timestamp + UNBONDING, "left");
    }

    function test_deregisterOperator_TakesAnEjection() public {
        address account = enlist(ID, ATTESTER);
        vm.prank(avs);
        allocations.deregisterFromOperatorSets(AllocationManagerStandIn.DeregisterParams(account, avs, ids(SET_ID)));
        assertEq(source.operatorOf(account).withdrawableAt, block.timestamp + UNBONDING, "left");
        assertEq(nextPowerOf(account), 0, "no vote");
    }

    // --- unlist ------------------------------------------------------------------------------------------------------

    function test_unlist_RevertsForStrangersAndWhoStays() public {
        _expect(abi.encodeWithSelector(IEigenLayerSource.NotRegistered.selector, stranger));
        source.unlist(stranger);
        address account = enlist(ID, ATTESTER);
        _expect(abi.encodeWithSelector(IEigenLayerSource.NotLeft.selector, account));
        source.unlist(account);
    }

    function test_unlist_WaitsForTheUnbondingAndTheTables() public {
        address account = enlist(ID, ATTESTER);
        uint32 epoch = roll();
        deregister(account);
        uint64 withdrawableAt = source.operatorOf(account).withdrawableAt;
        vm.warp(withdrawableAt - 1);
        _expect(abi.encodeWithSelector(IEigenLayerSource.StillBonded.selector, account, withdrawableAt));
        source.unlist(account);
        vm.warp(withdrawableAt);
        _expect(abi.encodeWithSelector(IEigenLayerSource.StillInTable.selector, account, epoch));
        source.unlist(account);
        roll();
        vm.warp(block.timestamp + GRACE_SECONDS);
        _expect(abi.encodeWithSelector(IEigenLayerSource.StillInTable.selector, account, epoch));
        source.unlist(account);
        vm.warp(block.timestamp + 1);
        vm.expectEmit(address(source));
        emit IEigenLayerSource.OperatorUnlisted(account);
        source.unlist(account);
        assertEq(source.operatorCount(), 0, "nobody");
        assertEq(source.rolesOf(account), ATTESTER, "answerable for ever");
        assertEq(source.operatorOf(account).peerKey, peerKeyOf(ID), "still described");
        _expect(abi.encodeWithSelector(IEigenLayerSource.AlreadyUnlisted.selector, account));
        source.unlist(account);
    }

    function test_unlist_MovesTheLastIntoTheEmptyPlace() public {
        address first = enlist(1, PERFORMER);
        address second = enlist(2, PERFORMER);
        address third = enlist(3, PERFORMER);
        deregister(first);
        deregister(third);
        vm.warp(block.timestamp + UNBONDING);
        source.unlist(first);
        assertEq(source.operatorsFrom(0, 9)[0].operator, third, "the last is first");
        assertEq(source.operatorsFrom(0, 9)[1].operator, second, "the second stays");
        source.unlist(third);
        assertEq(source.operatorCount(), 1, "one");
        assertEq(source.operatorsFrom(0, 9)[0].operator, second, "the second is left");
    }

    // --- what operators change ---------------------------------------------------------------------------------------

    function test_changes_OnlyOfOnesOwn() public {
        address account = enlist(ID, ATTESTER);
        vm.startPrank(stranger);
        bytes memory onlyOwner = abi.encodeWithSelector(IEigenLayerSource.OnlyOwner.selector, stranger, account);
        _expect(onlyOwner);
        source.updateEndpoints(account, "", "");
        _expect(onlyOwner);
        source.rotateVoteKey(account, "", "");
        _expect(onlyOwner);
        source.setRewardsReceiver(account, stranger);
        bytes memory unknown = abi.encodeWithSelector(IEigenLayerSource.NotRegistered.selector, stranger);
        _expect(unknown);
        source.updateEndpoints(stranger, "", "");
        _expect(unknown);
        source.setRewardsReceiver(stranger, stranger);
        vm.stopPrank();
    }

    function test_changes_NoneForWhoLeftButTheReceiver() public {
        address account = enlist(ID, ATTESTER);
        deregister(account);
        vm.startPrank(account);
        bytes memory left = abi.encodeWithSelector(IEigenLayerSource.AlreadyLeft.selector, account);
        _expect(left);
        source.updateEndpoints(account, "", "");
        _expect(left);
        source.rotateVoteKey(account, "", "");
        source.setRewardsReceiver(account, stranger);
        vm.stopPrank();
        assertEq(source.rewardsReceiverOf(account), stranger, "receiver");
    }

    function test_changes_EndpointsKeepThePeerKey() public {
        address account = enlist(ID, ATTESTER);
        enlist(OTHER, PERFORMER);
        vm.prank(account);
        vm.expectEmit(address(source));
        emit IEigenLayerSource.EndpointsUpdated(account, "/dns4/new", "https://new");
        source.updateEndpoints(account, "/dns4/new", "https://new");
        IOperatorRegistry.Operator memory found = source.operatorsFrom(0, 1)[0];
        assertEq(found.operator, account, "same place");
        assertEq(found.peerKey, peerKeyOf(ID), "peer key");
        assertEq(bytes(found.p2pAddress), "/dns4/new", "p2p address");
        assertEq(bytes(found.gatewayUrl), "https://new", "gateway");
        string memory longer = string(new bytes(321));
        vm.prank(account);
        _expect(abi.encodeWithSelector(IEigenLayerSource.EndpointTooLong.selector, 321, 320));
        source.updateEndpoints(account, longer, "");
    }

    function test_changes_AnotherVoteKeyFromTheNextEpochOn() public {
        address account = enlist(ID, ATTESTER);
        bytes memory key = Keys.publicKey(voteSecret(77));
        bytes32 digest = tables.possessionDigest(account, keccak256(key));
        bytes memory possession = Keys.sign(voteSecret(77), digest, BLS12381.POSSESSION_TAG);
        vm.prank(account);
        source.rotateVoteKey(account, key, possession);
        assertEq(source.operatorOf(account).voteKey, key, "new key");
    }

    function test_changes_TheReceiver() public {
        address account = enlist(ID, PERFORMER);
        vm.startPrank(account);
        vm.expectEmit(address(source));
        emit IEigenLayerSource.RewardsReceiverChanged(account, stranger);
        source.setRewardsReceiver(account, stranger);
        assertEq(source.rewardsReceiverOf(account), stranger, "receiver");
        vm.expectEmit(address(source));
        emit IEigenLayerSource.RewardsReceiverChanged(account, account);
        source.setRewardsReceiver(account, address(0));
        assertEq(source.rewardsReceiverOf(account), account, "itself again");
        source.setRewardsReceiver(account, account);
        assertEq(source.rewardsReceiverOf(account), account, "itself by name");
        vm.stopPrank();
    }
}
