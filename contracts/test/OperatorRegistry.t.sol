// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Currency} from "../src/libraries/Currency.sol";
import {Governed} from "../src/Governed.sol";
import {Keys} from "./Keys.sol";
import {RegistryNetwork, TestCourt} from "./RegistryNetwork.sol";

/// @notice Deploying and joining. Branches: tree/{deployRegistry,setCourt,register}.tree.
contract OperatorRegistryTest is RegistryNetwork {
    uint256 private constant ID = 1;
    uint256 private constant MAX_STAKE = type(uint96).max;
    address private immutable patron = address(uint160(uint256(keccak256("patron"))));
    address private account;

    function setUp() public override {
        super.setUp();
        account = accountOf(ID);
        vm.deal(account, 1000 ether);
        vm.deal(patron, 1000 ether);
    }

    // --- constructor -------------------------------------------------------------------------------------------------

    function test_constructor_KeepsItsSettings() public view {
        assertEq(address(registry.tables()), address(tables), "tables");
        assertEq(registry.stakeToken(), address(0), "stake token");
        assertEq(registry.minimumStake(), MINIMUM_STAKE, "minimum stake");
        assertEq(registry.powerUnit(), POWER_UNIT, "power unit");
        assertEq(registry.unbondingSeconds(), UNBONDING_SECONDS, "unbonding");
        assertEq(registry.court(), address(judge), "court");
        assertEq(registry.allowlistSigner(), address(0), "registration is open");
        assertEq(registry.totalStake(), 0, "total stake");
        assertEq(registry.operatorCount(), 0, "nobody");
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("ProofOfInference"),
                keccak256("1"),
                block.chainid,
                address(registry)
            )
        );
        assertEq(registry.domainSeparator(), domain, "domain");
        bytes32 structHash =
            keccak256(abi.encode(keccak256("Consent(address operator,address owner)"), account, patron));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", domain, structHash));
        assertEq(registry.consentDigest(account, patron), digest, "consent");
    }

    function _expectSetting(string memory name, uint256 value) private {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InvalidSetting.selector, name, value));
    }

    /// @dev In a call of its own, so that a constructor's revert is one that can be expected.
    function deployWith(address tables_, address token, uint256 minimum, uint256 unit, uint64 unbonding) external {
        deployRegistry(tables_, token, minimum, unit, unbonding);
    }

    function test_constructor_RefusesContractsThatAreNone() public {
        _expectSetting("tables", uint160(account));
        this.deployWith(account, address(0), MINIMUM_STAKE, POWER_UNIT, 1);
        _expectSetting("stakeToken", uint160(account));
        this.deployWith(address(tables), account, MINIMUM_STAKE, POWER_UNIT, 1);
    }

    function test_constructor_BoundsItsSettings() public {
        _expectSetting("powerUnit", 0);
        this.deployWith(address(tables), address(0), MINIMUM_STAKE, 0, 1);
        _expectSetting("minimumStake", POWER_UNIT - 1);
        this.deployWith(address(tables), address(0), POWER_UNIT - 1, POWER_UNIT, 1);
        _expectSetting("minimumStake", MAX_STAKE + 1);
        this.deployWith(address(tables), address(0), MAX_STAKE + 1, POWER_UNIT, 1);
        _expectSetting("powerUnit", MAX_STAKE + 1);
        this.deployWith(address(tables), address(0), MAX_STAKE, MAX_STAKE + 1, 1);
        _expectSetting("unbondingSeconds", 0);
        this.deployWith(address(tables), address(0), MINIMUM_STAKE, POWER_UNIT, 0);
        _expectSetting("unbondingSeconds", 365 days + 1);
        this.deployWith(address(tables), address(0), MINIMUM_STAKE, POWER_UNIT, 365 days + 1);

        this.deployWith(address(tables), address(0), 1, 1, 1);
        this.deployWith(address(tables), address(judge), MAX_STAKE, MAX_STAKE, 365 days);
    }

    // --- setCourt ----------------------------------------------------------------------------------------------------

    function _freshRegistry() private {
        registry = deployRegistry(address(tables), address(0), MINIMUM_STAKE, POWER_UNIT, UNBONDING_SECONDS);
    }

    function test_setCourt_IsForTheDeployerOnce() public {
        _freshRegistry();
        TestCourt candidate = new TestCourt(registry, UNBONDING_SECONDS);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.OnlyDeployer.selector, owner));
        registry.setCourt(address(candidate));
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.CourtSet(address(candidate));
        registry.setCourt(address(candidate));
        assertEq(registry.court(), address(candidate), "court");
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.CourtAlreadySet.selector, address(candidate)));
        registry.setCourt(address(candidate));
    }

    function _refuseCourt(address candidate) private {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InvalidCourt.selector, candidate));
        registry.setCourt(candidate);
    }

    function test_setCourt_RefusesOneThatCannotJudge() public {
        IOperatorRegistry other = registry;
        _freshRegistry();
        _refuseCourt(address(0));
        _refuseCourt(account);
        _refuseCourt(address(new TestCourt(other, 1)));
        _refuseCourt(address(new TestCourt(registry, UNBONDING_SECONDS + 1)));
        assertEq(registry.court(), address(0), "none");
    }

    // --- register ----------------------------------------------------------------------------------------------------

    function _registerAs(address who, IOperatorRegistry.Registration memory made, bytes memory refusal) private {
        vm.prank(who);
        if (refusal.length != 0) vm.expectRevert(refusal);
        registry.register{value: made.stake}(made);
    }

    function _register(IOperatorRegistry.Registration memory made, bytes memory refusal) private {
        _registerAs(account, made, refusal);
    }

    function test_register_StoresAnAttester() public {
        IOperatorRegistry.Registration memory made = registration(ID, ATTESTER, MINIMUM_STAKE);
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.OperatorRegistered(
            account, account, ATTESTER, MINIMUM_STAKE, peerKeyOf(ID), made.p2pAddress, made.gatewayUrl
        );
        _register(made, "");

        IOperatorRegistry.Operator memory operator = registry.operatorOf(account);
        assertEq(operator.operator, account, "operator");
        assertEq(operator.owner, account, "owner");
        assertEq(operator.rewardsReceiver, account, "rewards receiver");
        assertEq(operator.roles, ATTESTER, "roles");
        assertTrue(operator.isActive, "active");
        assertEq(operator.withdrawableAt, 0, "not leaving");
        assertEq(operator.stake, MINIMUM_STAKE, "stake");
        assertEq(operator.peerKey, peerKeyOf(ID), "peer key");
        assertEq(operator.voteKey, made.voteKey, "vote key");
        assertEq(bytes(operator.p2pAddress), bytes(made.p2pAddress), "p2p address");
        assertEq(bytes(operator.gatewayUrl), bytes(made.gatewayUrl), "gateway");
        assertEq(registry.rolesOf(account), ATTESTER, "rolesOf");
        assertEq(registry.rewardsReceiverOf(account), account, "rewardsReceiverOf");
        assertEq(registry.totalStake(), MINIMUM_STAKE, "total stake");
        assertEq(address(registry).balance, MINIMUM_STAKE, "balance");
        roll();
        (address[] memory members, bytes[] memory keys, uint64[] memory powers) = tables.tableOf(1, 0);
        assertEq(members.length, 1, "one seat");
        assertEq(members[0], account, "its");
        assertEq(keys[0], made.voteKey, "its key");
        assertEq(powers[0], MINIMUM_STAKE / POWER_UNIT, "its power");
    }

    function test_register_TakesAPerformerWithoutVoteKey() public {
        _register(registration(ID, PERFORMER | AGGREGATOR, MINIMUM_STAKE), "");
        assertEq(registry.operatorOf(account).voteKey, "", "no vote key");
        assertEq(registry.rolesOf(account), PERFORMER | AGGREGATOR, "roles");
        roll();
        (address[] memory members,,) = tables.tableOf(1, 0);
        assertEq(members.length, 0, "no vote");
    }

    function test_register_TellsTheOwnerOfASeatToTheTables() public {
        IOperatorRegistry.Registration memory made = registrationBy(patron, ID, ATTESTER, MINIMUM_STAKE);
        vm.expectEmit(address(tables));
        emit IEpochTables.AttesterSeated(account, patron, 0, made.voteKey);
        _registerAs(patron, made, "");
    }

    function test_register_RevertsBeforeTheCourtIsSet() public {
        _freshRegistry();
        _register(
            registration(ID, PERFORMER, MINIMUM_STAKE), abi.encodeWithSelector(IOperatorRegistry.CourtNotSet.selector)
        );
    }

    function test_register_RevertsWhilePaused() public {
        vm.prank(owner);
        Governed(address(registry)).pause(true);
        uint256 until = block.timestamp + 7 days;
        IOperatorRegistry.Registration memory made = registration(ID, PERFORMER, MINIMUM_STAKE);
        bytes memory refusal = abi.encodeWithSelector(Governed.Paused.selector, until);
        _register(made, refusal);
        vm.warp(until - 1);
        _register(made, refusal);
        vm.warp(until);
        _register(made, "");
    }

    function test_register_RevertsForWhoRegisteredBefore() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.AlreadyRegistered.selector, account);
        IOperatorRegistry.Registration memory again = registration(ID, ATTESTER, MINIMUM_STAKE);
        again.peerKey = peerKeyOf(2);
        _register(again, refusal);
        _registerAs(patron, registrationBy(patron, ID, PERFORMER, MINIMUM_STAKE), refusal);

        leaveAs(account, account);
        _register(again, refusal);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        withdrawAs(account, account);
        _register(again, refusal);
    }

    function test_register_RevertsForUnknownRoles() public {
        IOperatorRegistry.Registration memory made = registration(ID, 0, MINIMUM_STAKE);
        _register(made, abi.encodeWithSelector(IOperatorRegistry.InvalidRoles.selector, 0));
        made.roles = 8;
        _register(made, abi.encodeWithSelector(IOperatorRegistry.InvalidRoles.selector, 8));
        made.roles = 255;
        _register(made, abi.encodeWithSelector(IOperatorRegistry.InvalidRoles.selector, 255));
    }

    function test_register_BoundsTheStake() public {
        vm.deal(account, MAX_STAKE + 1);
        uint256 stake = MINIMUM_STAKE - 1;
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.StakeTooSmall.selector, stake, MINIMUM_STAKE);
        _register(registration(ID, PERFORMER, stake), refusal);
        refusal = abi.encodeWithSelector(IOperatorRegistry.StakeTooLarge.selector, MAX_STAKE + 1, MAX_STAKE);
        _register(registration(ID, PERFORMER, MAX_STAKE + 1), refusal);
        _register(registration(ID, PERFORMER, MAX_STAKE), "");
        assertEq(registry.operatorOf(account).stake, MAX_STAKE, "stake");
        assertEq(registry.totalStake(), MAX_STAKE, "total stake");
    }

    function test_register_TakesExactlyTheValue() public {
        IOperatorRegistry.Registration memory made = registration(ID, PERFORMER, MINIMUM_STAKE);
        vm.startPrank(account);
        vm.expectRevert(abi.encodeWithSelector(Currency.WrongValue.selector, MINIMUM_STAKE + 1, MINIMUM_STAKE));
        registry.register{value: MINIMUM_STAKE + 1}(made);
        vm.expectRevert(abi.encodeWithSelector(Currency.WrongValue.selector, 0, MINIMUM_STAKE));
        registry.register(made);
    }

    function test_register_RevertsForAPeerKeyOfZero() public {
        IOperatorRegistry.Registration memory made = registration(ID, PERFORMER, MINIMUM_STAKE);
        made.peerKey = 0;
        _register(made, abi.encodeWithSelector(IOperatorRegistry.InvalidPeerKey.selector));
    }

    function test_register_RevertsForATakenPeerKey() public {
        address other = join(2, PERFORMER, MINIMUM_STAKE);
        IOperatorRegistry.Registration memory made = registration(ID, PERFORMER, MINIMUM_STAKE);
        made.peerKey = peerKeyOf(2);
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.PeerKeyTaken.selector, peerKeyOf(2));
        _register(made, refusal);
        leaveAs(other, other);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        withdrawAs(other, other);
        _register(made, refusal);
    }

    function test_register_BoundsTheEndpoints() public {
        string memory longest = string(new bytes(320));
        string memory tooLong = string(new bytes(321));
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.EndpointTooLong.selector, 321, 320);
        IOperatorRegistry.Registration memory made = registration(ID, PERFORMER, MINIMUM_STAKE);
        made.p2pAddress = tooLong;
        _register(made, refusal);
        (made.p2pAddress, made.gatewayUrl) = (longest, tooLong);
        _register(made, refusal);
        made.gatewayUrl = longest;
        _register(made, "");
        assertEq(bytes(registry.operatorOf(account).p2pAddress), bytes(longest), "p2p address");
        assertEq(bytes(registry.operatorOf(account).gatewayUrl), bytes(longest), "gateway");
    }

    function testFuzz_register_KeepsAnyEndpoints(bytes memory p2pAddress, bytes memory gatewayUrl) public {
        if (p2pAddress.length > 320 || gatewayUrl.length > 320) return;
        IOperatorRegistry.Registration memory made = registration(ID, PERFORMER, MINIMUM_STAKE);
        (made.p2pAddress, made.gatewayUrl) = (string(p2pAddress), string(gatewayUrl));
        _register(made, "");
        IOperatorRegistry.Operator memory operator = registry.operatorOf(account);
        assertEq(bytes(operator.p2pAddress), p2pAddress, "p2p address");
        assertEq(bytes(operator.gatewayUrl), gatewayUrl, "gateway");
        assertEq(operator.peerKey, peerKeyOf(ID), "peer key");
    }

    // --- register: the vote key --------------------------------------------------------------------------------------

    function test_register_RefusesAKeyThatNobodyWouldCheck() public {
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.UnexpectedVoteKey.selector);
        IOperatorRegistry.Registration memory made = registration(ID, ATTESTER, MINIMUM_STAKE);
        made.roles = PERFORMER;
        _register(made, refusal);
        bytes memory possession = made.possession;
        made.possession = "";
        _register(made, refusal);
        (made.voteKey, made.possession) = ("", possession);
        _register(made, refusal);
    }

    function test_register_RevertsForAnAttesterWithoutVoteKey() public {
        IOperatorRegistry.Registration memory made = registration(ID, ATTESTER, MINIMUM_STAKE);
        (bytes memory key, bytes memory possession) = (made.voteKey, made.possession);
        made.voteKey = "";
        _register(made, abi.encodeWithSelector(IEpochTables.VoteKeyLength.selector, 0));
        (made.voteKey, made.possession) = (key, "");
        _register(made, abi.encodeWithSelector(IEpochTables.PossessionLength.selector, 0));
        made.possession = possession;
        _register(made, "");
    }

    function test_register_RevertsForATakenVoteKey() public {
        join(2, ATTESTER, MINIMUM_STAKE);
        IOperatorRegistry.Registration memory made = registration(ID, ATTESTER, MINIMUM_STAKE);
        (made.voteKey, made.possession) = (Keys.publicKey(voteSecret(2)), possessionOf(2, account));
        _register(made, abi.encodeWithSelector(IEpochTables.VoteKeyTaken.selector, keccak256(made.voteKey)));
        assertEq(registry.rolesOf(account), 0, "nothing of it stays");
        assertEq(registry.operatorCount(), 1, "nor in the list");
    }

    function test_register_RevertsForAnothersPossession() public {
        // Who copies key and proof out of the pool is not the operator that the proof names.
        IOperatorRegistry.Registration memory made = registration(ID, ATTESTER, MINIMUM_STAKE);
        made.possession = possessionOf(ID, accountOf(2));
        bytes memory refusal =
            abi.encodeWithSelector(IEpochTables.PossessionMismatch.selector, account, keccak256(made.voteKey));
        _register(made, refusal);
        // Nor is a vote a proof.
        bytes32 digest = tables.possessionDigest(account, keccak256(made.voteKey));
        made.possession = Keys.sign(voteSecret(ID), digest, BLS12381.SIGNATURE_TAG);
        _register(made, refusal);
    }

    // --- register: owner, consent, receiver --------------------------------------------------------------------------

    function test_register_TakesAnOwnerWithTheOperatorsConsent() public {
        IOperatorRegistry.Registration memory made = registrationBy(patron, ID, ATTESTER, MINIMUM_STAKE);
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.OperatorRegistered(
            account, patron, ATTESTER, MINIMUM_STAKE, peerKeyOf(ID), made.p2pAddress, made.gatewayUrl
        );
        _registerAs(patron, made, "");
        assertEq(registry.operatorOf(account).owner, patron, "owner");
        assertEq(registry.rewardsReceiverOf(account), patron, "rewards go to the owner");
        assertEq(registry.rolesOf(account), ATTESTER, "the operator has the roles");
        assertEq(registry.rolesOf(patron), 0, "the owner has none");
        assertEq(registry.rewardsReceiverOf(patron), address(0), "nor rewards of its own");
        assertEq(patron.balance, 1000 ether - MINIMUM_STAKE, "the owner paid");
    }

    function test_register_NamesItselfAsWellAsZero() public {
        IOperatorRegistry.Registration memory made = registration(ID, PERFORMER, MINIMUM_STAKE);
        made.operator = account;
        _register(made, "");
        assertEq(registry.operatorOf(account).owner, account, "owner");
    }

    function test_register_RefusesAnOperatorThatDidNotConsent() public {
        IOperatorRegistry.Registration memory made = registrationBy(patron, ID, PERFORMER, MINIMUM_STAKE);
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.InvalidConsent.selector, account, patron);
        bytes memory good = made.consent;
        made.consent = "";
        _registerAs(patron, made, refusal);
        made.consent = ecdsaSignature(2, registry.consentDigest(account, patron));
        _registerAs(patron, made, refusal);
        made.consent = ecdsaSignature(ID, registry.consentDigest(accountOf(2), patron));
        _registerAs(patron, made, refusal);
        made.consent = _highS(ID, registry.consentDigest(account, patron));
        _registerAs(patron, made, refusal);
        made.consent = abi.encodePacked(good, bytes1(0));
        _registerAs(patron, made, refusal);
        // A consent is for one owner: whoever sees it in the pool is another.
        made.consent = good;
        vm.deal(accountOf(3), MINIMUM_STAKE);
        refusal = abi.encodeWithSelector(IOperatorRegistry.InvalidConsent.selector, account, accountOf(3));
        _registerAs(accountOf(3), made, refusal);
        _registerAs(patron, made, "");
    }

    /// @dev The other signature that ecrecover takes for the same key.
    function _highS(uint256 id, bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(ecdsaSecret(id), digest);
        uint256 order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
        return abi.encodePacked(r, bytes32(order - uint256(s)), v == 27 ? uint8(28) : uint8(27));
    }

    function test_register_AsksAContractForItsConsent() public {
        Wallet wallet = new Wallet();
        IOperatorRegistry.Registration memory made = registration(ID, PERFORMER, MINIMUM_STAKE);
        made.operator = address(wallet);
        made.consent = "yes";
        bytes memory refusal =
            abi.encodeWithSelector(IOperatorRegistry.InvalidConsent.selector, address(wallet), patron);
        _registerAs(patron, made, refusal);
        wallet.consent(registry.consentDigest(address(wallet), patron));
        _registerAs(patron, made, "");
        assertEq(registry.operatorOf(address(wallet)).owner, patron, "owner");
    }

    function test_register_TakesTheKeysConsentForAnAccountWithCode() public {
        // EIP-7702: an account with a key may run a contract's code that has never heard of ERC-1271.
        vm.etch(account, hex"00");
        _registerAs(patron, registrationBy(patron, ID, PERFORMER, MINIMUM_STAKE), "");
        assertEq(registry.operatorOf(account).owner, patron, "owner");
    }

    function test_register_SendsRewardsWhereItIsTold() public {
        IOperatorRegistry.Registration memory made = registration(ID, PERFORMER, MINIMUM_STAKE);
        made.rewardsReceiver = patron;
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.RewardsReceiverChanged(account, patron);
        _register(made, "");
        assertEq(registry.rewardsReceiverOf(account), patron, "another receiver");
        made = registration(2, PERFORMER, MINIMUM_STAKE);
        made.rewardsReceiver = accountOf(2);
        vm.deal(accountOf(2), MINIMUM_STAKE);
        _registerAs(accountOf(2), made, "");
        assertEq(registry.rewardsReceiverOf(accountOf(2)), accountOf(2), "itself, by name");
    }
}

/// Signs what it was told to, by ERC-1271.
contract Wallet {
    mapping(bytes32 digest => bool) private _isConsented;

    function consent(bytes32 digest) external {
        _isConsented[digest] = true;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        return
            _isConsented[digest] && keccak256(signature) == keccak256("yes")
                ? this.isValidSignature.selector
                : bytes4(0);
    }
}
