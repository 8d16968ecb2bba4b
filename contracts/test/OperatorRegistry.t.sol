// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Keys} from "./Keys.sol";
import {Network} from "./Network.sol";

/// @notice Joining, and what can be changed afterwards. Branches: tree/register.tree.
contract OperatorRegistryTest is Network {
    uint256 private constant ID = 1;
    address private account;

    function setUp() public override {
        super.setUp();
        account = accountOf(ID);
        vm.deal(account, 1000 ether);
    }

    // --- register ----------------------------------------------------------------------------------------------------

    function _register(uint8 roles, uint256 stake, bytes memory key, bytes memory possession, bytes memory refusal)
        private
    {
        vm.prank(account);
        if (refusal.length != 0) vm.expectRevert(refusal);
        registry.register{value: stake}(roles, key, possession, peerKeyOf(ID), "/ip4/127.0.0.1", "http://node");
    }

    function _key() private view returns (bytes memory) {
        return Keys.publicKey(voteSecret(ID));
    }

    function _joinAndLeave(uint8 roles) private {
        join(ID, roles, MINIMUM_STAKE);
        vm.prank(account);
        registry.leave();
    }

    function test_register_StoresAnAttester() public {
        bytes memory key = _key();
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.OperatorRegistered(
            account, ATTESTER, MINIMUM_STAKE, key, peerKeyOf(ID), "/ip4/127.0.0.1", "http://node"
        );
        _register(ATTESTER, MINIMUM_STAKE, key, possessionOf(ID, account), "");

        IOperatorRegistry.Operator memory operator = registry.operatorOf(account);
        assertEq(operator.operator, account, "address");
        assertEq(operator.roles, ATTESTER, "roles");
        assertTrue(operator.isActive, "active");
        assertEq(operator.withdrawableAt, 0, "not leaving");
        assertEq(operator.stake, MINIMUM_STAKE, "stake");
        assertEq(operator.peerKey, peerKeyOf(ID), "peer key");
        assertEq(operator.voteKey, key, "the key comes back as it was given, though it is stored negated");
        assertEq(bytes(operator.p2pAddress), "/ip4/127.0.0.1", "p2p address");
        assertEq(bytes(operator.gatewayUrl), "http://node", "gateway");
        assertEq(registry.rolesOf(account), ATTESTER, "rolesOf");
        assertEq(registry.totalStake(), MINIMUM_STAKE, "total stake");
        assertEq(address(registry).balance, MINIMUM_STAKE, "balance");
    }

    function test_register_TakesAPerformerWithoutVoteKey() public {
        _register(PERFORMER, MINIMUM_STAKE, "", "", "");
        assertEq(registry.operatorOf(account).voteKey, "", "no vote key");
        roll();
        (address[] memory members,,) = registry.tableOf(1);
        assertEq(members.length, 0, "no vote");
    }

    function test_register_ProvesAVoteKeyOfAPerformerToo() public {
        _register(
            PERFORMER,
            MINIMUM_STAKE,
            _key(),
            possessionOf(2, account),
            abi.encodeWithSelector(IOperatorRegistry.PossessionMismatch.selector, account, keccak256(_key()))
        );
        _register(PERFORMER, MINIMUM_STAKE, _key(), possessionOf(ID, account), "");
        assertEq(registry.operatorOf(account).voteKey, _key(), "vote key");
    }

    function test_register_RevertsBeforeTheCenterIsSet() public {
        registry = deployRegistry(MINIMUM_STAKE, UNBONDING_SECONDS, EPOCH_SECONDS, vault);
        _register(PERFORMER, MINIMUM_STAKE, "", "", abi.encodeWithSelector(IOperatorRegistry.CenterNotSet.selector));
    }

    function test_register_RevertsForWhoRegisteredBefore() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.AlreadyRegistered.selector, account);
        _register(ATTESTER, MINIMUM_STAKE, _key(), possessionOf(ID, account), refusal);
    }

    function test_register_RevertsForWhoHasWithdrawn() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        vm.prank(account);
        registry.leave();
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.prank(account);
        registry.withdraw();
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.AlreadyRegistered.selector, account);
        _register(ATTESTER, MINIMUM_STAKE, _key(), possessionOf(ID, account), refusal);
    }

    function test_register_RevertsForUnknownRoles() public {
        _register(0, MINIMUM_STAKE, "", "", abi.encodeWithSelector(IOperatorRegistry.InvalidRoles.selector, 0));
        _register(8, MINIMUM_STAKE, "", "", abi.encodeWithSelector(IOperatorRegistry.InvalidRoles.selector, 8));
    }

    function test_register_RevertsBelowTheMinimumStake() public {
        uint256 stake = MINIMUM_STAKE - 1;
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.StakeTooSmall.selector, stake, MINIMUM_STAKE);
        _register(PERFORMER, stake, "", "", refusal);
    }

    function test_register_RevertsAboveTheMaximumStake() public {
        uint256 maximum = uint256(type(uint64).max / 128) * 1 gwei;
        vm.deal(account, maximum + 1);
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.StakeTooLarge.selector, maximum + 1, maximum);
        _register(PERFORMER, maximum + 1, "", "", refusal);
        _register(PERFORMER, maximum, "", "", "");
    }

    function test_register_RevertsForAPeerKeyOfZero() public {
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InvalidPeerKey.selector));
        registry.register{value: MINIMUM_STAKE}(PERFORMER, "", "", 0, "", "");
    }

    function test_register_RevertsForATakenPeerKey() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        vm.deal(address(this), MINIMUM_STAKE);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.PeerKeyTaken.selector, peerKeyOf(ID)));
        registry.register{value: MINIMUM_STAKE}(PERFORMER, "", "", peerKeyOf(ID), "", "");
    }

    function test_register_BoundsTheEndpoints() public {
        string memory longest = string(new bytes(320));
        string memory tooLong = string(new bytes(321));
        vm.startPrank(account);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.EndpointTooLong.selector, 321, 320));
        registry.register{value: MINIMUM_STAKE}(PERFORMER, "", "", peerKeyOf(ID), tooLong, "");
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.EndpointTooLong.selector, 321, 320));
        registry.register{value: MINIMUM_STAKE}(PERFORMER, "", "", peerKeyOf(ID), longest, tooLong);
        registry.register{value: MINIMUM_STAKE}(PERFORMER, "", "", peerKeyOf(ID), longest, longest);
    }

    function test_register_RevertsForAnAttesterWithoutVoteKey() public {
        _register(ATTESTER, MINIMUM_STAKE, "", "", abi.encodeWithSelector(IOperatorRegistry.VoteKeyLength.selector, 0));
    }

    function test_register_RevertsForWrongLengths() public {
        bytes memory possession = possessionOf(ID, account);
        bytes memory longKey = abi.encodePacked(_key(), bytes1(0));
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.VoteKeyLength.selector, 193);
        _register(ATTESTER, MINIMUM_STAKE, longKey, possession, refusal);
        refusal = abi.encodeWithSelector(IOperatorRegistry.PossessionLength.selector, 0);
        _register(ATTESTER, MINIMUM_STAKE, _key(), "", refusal);
        // A proof without a key is a mistake of the caller's, not a performer without a key.
        refusal = abi.encodeWithSelector(IOperatorRegistry.VoteKeyLength.selector, 0);
        _register(PERFORMER, MINIMUM_STAKE, "", possession, refusal);
    }

    function test_register_RevertsForATakenVoteKey() public {
        join(ID, ATTESTER, MINIMUM_STAKE);
        address other = accountOf(2);
        vm.deal(other, MINIMUM_STAKE);
        bytes memory key = _key();
        bytes memory possession = possessionOf(ID, other);
        vm.prank(other);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.VoteKeyTaken.selector, keccak256(key)));
        registry.register{value: MINIMUM_STAKE}(ATTESTER, key, possession, peerKeyOf(2), "", "");
    }

    function test_register_RevertsForAnothersPossession() public {
        // Who copies key and proof out of the pool is not the operator that the proof names.
        bytes memory refusal =
            abi.encodeWithSelector(IOperatorRegistry.PossessionMismatch.selector, account, keccak256(_key()));
        _register(ATTESTER, MINIMUM_STAKE, _key(), possessionOf(ID, accountOf(2)), refusal);
    }

    function test_register_RevertsForAVoteInPlaceOfAPossession() public {
        bytes32 digest = registry.possessionDigest(account, keccak256(_key()));
        bytes memory voted = Keys.sign(voteSecret(ID), digest, BLS12381.SIGNATURE_TAG);
        bytes memory refusal =
            abi.encodeWithSelector(IOperatorRegistry.PossessionMismatch.selector, account, keccak256(_key()));
        _register(ATTESTER, MINIMUM_STAKE, _key(), voted, refusal);
    }

    function test_register_RefusesTheHundredAndTwentyEighthAttester() public {
        for (uint256 id = 1; id <= 127; ++id) {
            join(id, ATTESTER, MINIMUM_STAKE);
        }
        bytes memory key = Keys.publicKey(voteSecret(128));
        bytes memory possession = possessionOf(128, address(this));
        vm.deal(address(this), MINIMUM_STAKE);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.TooManyAttesters.selector, 127));
        registry.register{value: MINIMUM_STAKE}(ATTESTER, key, possession, peerKeyOf(128), "", "");

        vm.prank(account);
        registry.leave();
        registry.register{value: MINIMUM_STAKE}(ATTESTER, key, possession, peerKeyOf(128), "", "");
        assertEq(registry.operatorCount(), 128, "a seat that was given up is free again");
    }

    // --- updateEndpoints, addStake -----------------------------------------------------------------------------------

    function test_updateEndpoints_ReplacesBoth() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.EndpointsUpdated(account, "/dns4/a", "https://b");
        vm.prank(account);
        registry.updateEndpoints("/dns4/a", "https://b");
        assertEq(bytes(registry.operatorOf(account).p2pAddress), "/dns4/a", "p2p address");
        assertEq(bytes(registry.operatorOf(account).gatewayUrl), "https://b", "gateway");
    }

    function test_updateEndpoints_RevertsForStrangersAndWhoLeft() public {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, address(this)));
        registry.updateEndpoints("", "");
        _joinAndLeave(PERFORMER);
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.AlreadyLeft.selector, account));
        registry.updateEndpoints("", "");
    }

    function test_addStake_CountsFromTheNextRollOn() public {
        join(ID, ATTESTER, MINIMUM_STAKE);
        roll();
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.StakeAdded(account, 1 gwei, MINIMUM_STAKE + 1 gwei);
        vm.prank(account);
        registry.addStake{value: 1 gwei}();
        assertEq(registry.totalStake(), MINIMUM_STAKE + 1 gwei, "total stake");
        (,, uint64[] memory powers) = registry.tableOf(1);
        assertEq(powers[0], MINIMUM_STAKE / 1 gwei, "the frozen table does not move");
        roll();
        (,, powers) = registry.tableOf(2);
        assertEq(powers[0], MINIMUM_STAKE / 1 gwei + 1, "the next one counts it");
    }

    function test_addStake_RevertsForStrangersAndWhoLeft() public {
        vm.deal(address(this), 1 ether);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, address(this)));
        registry.addStake{value: 1}();
        _joinAndLeave(PERFORMER);
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.AlreadyLeft.selector, account));
        registry.addStake{value: 1}();
    }

    function test_addStake_RevertsAboveTheMaximum() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        uint256 maximum = uint256(type(uint64).max / 128) * 1 gwei;
        vm.deal(account, maximum);
        vm.prank(account);
        vm.expectRevert(
            abi.encodeWithSelector(IOperatorRegistry.StakeTooLarge.selector, maximum + MINIMUM_STAKE, maximum)
        );
        registry.addStake{value: maximum}();
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    function test_operatorsFrom_PagesThroughTheList() public {
        for (uint256 id = 1; id <= 5; ++id) {
            join(id, PERFORMER, MINIMUM_STAKE);
        }
        assertEq(registry.operators().length, 5, "all");
        IOperatorRegistry.Operator[] memory page = registry.operatorsFrom(3, 10);
        assertEq(page.length, 2, "the rest");
        assertEq(page[1].operator, accountOf(5), "the last");
        assertEq(registry.operatorsFrom(1, 2)[0].operator, accountOf(2), "from the middle");
        assertEq(registry.operatorsFrom(5, 1).length, 0, "beyond the end");
        assertEq(registry.operatorsFrom(type(uint256).max, type(uint256).max).length, 0, "far beyond the end");
    }

    function test_operatorOf_RevertsForAStranger() public {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, account));
        registry.operatorOf(account);
    }
}
