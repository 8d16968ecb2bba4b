// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Base} from "./Base.sol";
import {Keys} from "./Keys.sol";

/// @notice The five contracts with operators whose keys are derived from small numbers, so that a test can make any
/// certificate, honest or not.
abstract contract Network is Base {
    uint8 internal constant PERFORMER = 1;
    uint8 internal constant ATTESTER = 2;
    uint8 internal constant AGGREGATOR = 4;
    uint8 internal constant VALID = 1;
    uint8 internal constant INVALID = 2;

    uint256 internal constant MINIMUM_STAKE = 1 ether;
    uint256 internal constant POWER_UNIT = 0.001 ether;
    uint64 internal constant UNBONDING_SECONDS = 14 days;
    uint64 internal constant EPOCH_SECONDS = 1 hours;
    uint64 internal constant GRACE_SECONDS = 1 hours;
    uint64 internal constant LONGEST_DISPUTE = 7 days;
    uint32 internal constant DISPUTE_WINDOW = 1 days;
    uint64 internal constant VETO_DELAY = 12 hours;
    uint64 internal constant REFUND_DELAY = 2 days;
    uint64 internal constant CHANGE_DELAY = 2 days;
    uint256 internal constant START = 1_800_000_000;

    address internal immutable vault = address(uint160(uint256(keccak256("vault"))));
    address internal immutable owner = address(uint160(uint256(keccak256("owner"))));

    IEpochTables internal tables;
    IOperatorRegistry internal registry;
    IAttestationCenter internal center;
    ITaskEscrow internal escrow;
    ISlashingCourt internal court;
    mapping(address operator => uint256 id) internal idOf;

    function setUp() public virtual {
        vm.warp(START);
        deployNetwork(address(0));
        addDefinition(terms());
    }

    // --- deploying ---------------------------------------------------------------------------------------------------

    /// @dev `token` zero: the chain's own coin, for stake and fees.
    function deployNetwork(address token) internal {
        tables = IEpochTables(deploy("EpochTables.sol:EpochTables", abi.encode(EPOCH_SECONDS, GRACE_SECONDS)));
        registry = IOperatorRegistry(
            deploy(
                "OperatorRegistry.sol:OperatorRegistry",
                abi.encode(tables, token, MINIMUM_STAKE, POWER_UNIT, UNBONDING_SECONDS, owner, CHANGE_DELAY)
            )
        );
        center = IAttestationCenter(
            deploy("AttestationCenter.sol:AttestationCenter", abi.encode(tables, registry, owner, CHANGE_DELAY))
        );
        escrow = ITaskEscrow(
            deploy("TaskEscrow.sol:TaskEscrow", abi.encode(center, token, REFUND_DELAY, owner, CHANGE_DELAY))
        );
        court = ISlashingCourt(
            deploy(
                "SlashingCourt.sol:SlashingCourt",
                abi.encode(center, vault, VETO_DELAY, LONGEST_DISPUTE, owner, CHANGE_DELAY)
            )
        );
        tables.setSource(address(registry));
        registry.setCourt(address(court));
        center.setCourt(address(court));
    }

    /// @dev What most tests settle by: small fees, everybody votes, rejected tasks are slashed.
    function terms() internal pure virtual returns (IAttestationCenter.TaskTerms memory) {
        return IAttestationCenter.TaskTerms({
            fees: IAttestationCenter.Fees({performer: 5 gwei, attesters: 3 gwei, aggregator: 1 gwei}),
            attesterSet: 0,
            maximumDeadline: 1 days,
            disputeWindow: DISPUTE_WINDOW,
            waitsForAll: false,
            settlesSingly: false,
            slashesRejected: true,
            slashesOutliers: false,
            hook: address(0),
            feeCalculator: address(0)
        });
    }

    function addDefinition(IAttestationCenter.TaskTerms memory with) internal returns (uint16) {
        vm.prank(owner);
        return center.createTaskDefinition("digits", "exact", keccak256("model"), "bafkrei", with);
    }

    // --- operators ---------------------------------------------------------------------------------------------------

    function ecdsaSecret(uint256 id) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode("operator key", id))) >> 1;
    }

    function voteSecret(uint256 id) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode("vote key", id))) % Keys.ORDER;
    }

    function accountOf(uint256 id) internal pure returns (address) {
        return vm.addr(ecdsaSecret(id));
    }

    function peerKeyOf(uint256 id) internal pure returns (bytes32) {
        return keccak256(abi.encode("peer key", id));
    }

    function possessionOf(uint256 id, address operator) internal view returns (bytes memory) {
        bytes32 digest = tables.possessionDigest(operator, keccak256(Keys.publicKey(voteSecret(id))));
        return Keys.sign(voteSecret(id), digest, BLS12381.POSSESSION_TAG);
    }

    /// @dev What operator `id` registers itself with; with a vote key if it attests.
    function registration(uint256 id, uint8 roles, uint256 stake)
        internal
        view
        returns (IOperatorRegistry.Registration memory made)
    {
        made.roles = roles;
        made.stake = stake;
        made.peerKey = peerKeyOf(id);
        made.p2pAddress = "/ip4/127.0.0.1/tcp/9700";
        made.gatewayUrl = "http://node:8700";
        if (roles & ATTESTER != 0) {
            made.voteKey = Keys.publicKey(voteSecret(id));
            made.possession = possessionOf(id, accountOf(id));
        }
    }

    /// @dev Registers operator `id` as its own owner, for the chain's own coin.
    function join(uint256 id, uint8 roles, uint256 stake) internal returns (address account) {
        account = accountOf(id);
        idOf[account] = id;
        IOperatorRegistry.Registration memory made = registration(id, roles, stake);
        vm.deal(account, account.balance + stake);
        vm.prank(account);
        registry.register{value: stake}(made);
    }

    /// @dev Lets enough time pass, then rolls until the epoch is new.
    function roll() internal returns (uint32 epoch) {
        if (block.timestamp < tables.rollableAt()) vm.warp(tables.rollableAt());
        while (epoch == 0) epoch = tables.rollEpoch();
    }

    // --- requests ----------------------------------------------------------------------------------------------------

    /// @dev A request of requester `requester` (an id like the operators') to performer `performer`.
    function makeRequest(uint256 requester, uint256 nonce, uint256 performer, uint256 fee)
        internal
        view
        returns (IAttestationCenter.TaskRequest memory)
    {
        return IAttestationCenter.TaskRequest({
            requester: accountOf(requester),
            nonce: nonce,
            performer: accountOf(performer),
            taskDefinitionId: 0,
            modelHash: keccak256("model"),
            inputCid: "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
            parameters: "{}",
            seed: bytes32(nonce),
            fee: fee,
            deadline: uint64(block.timestamp) + 1 hours
        });
    }

    // --- certificates ------------------------------------------------------------------------------------------------

    function makeInfo(bytes32 taskId, uint256 performer, uint32 epoch)
        internal
        pure
        returns (IAttestationCenter.TaskInfo memory)
    {
        return IAttestationCenter.TaskInfo({
            taskId: taskId,
            proofOfTask: "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
            data: abi.encode(uint256(3)),
            taskPerformer: accountOf(performer),
            taskDefinitionId: 0,
            epoch: epoch
        });
    }

    /// @dev A certificate by the attesters of the info's table whose bits are set in `signers`; those without power are
    /// left out.
    function certify(IAttestationCenter.TaskInfo memory info, bool isApproved, uint256 signers)
        internal
        view
        returns (IAttestationCenter.TaskSubmissionDetails memory details)
    {
        bytes32 infoHash = center.taskInfoHash(info);
        details.isApproved = isApproved;
        details.tpSignature = ecdsaSignature(idOf[info.taskPerformer], infoHash);
        bytes32 digest = center.voteDigest(infoHash, isApproved ? VALID : INVALID);
        uint32 set = center.taskDefinition(info.taskDefinitionId).terms.attesterSet;
        (details.taSignature, details.indices) = vote(digest, info.epoch, set, isApproved, signers);
    }

    /// @dev The aggregate over `digest` by the set bits of `signers`, and the indices that go with it (one byte each).
    function vote(bytes32 digest, uint32 epoch, uint32 set, bool isApproval, uint256 signers)
        internal
        view
        virtual
        returns (bytes memory signature, bytes memory indices)
    {
        (address[] memory members,, uint64[] memory powers) = tables.tableOf(epoch, set);
        uint256 secret = 0;
        for (uint256 i = 0; i < members.length; ++i) {
            if (powers[i] == 0) continue;
            bool signs = signers >> i & 1 == 1;
            if (signs) secret = addmod(secret, voteSecret(idOf[members[i]]), Keys.ORDER);
            if (signs != isApproval) indices = abi.encodePacked(indices, uint8(i));
        }
        signature = Keys.sign(secret, digest, BLS12381.SIGNATURE_TAG);
    }

    /// @dev 65 bytes r, s, v of the operator or requester `id`.
    function ecdsaSignature(uint256 id, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(ecdsaSecret(id), digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev One attester's own vote, as it would be gossiped.
    function voteOf(uint256 id, bytes32 infoHash, uint8 verdict) internal view returns (bytes memory) {
        return Keys.sign(voteSecret(id), center.voteDigest(infoHash, verdict), BLS12381.SIGNATURE_TAG);
    }

    /// @dev Settles a task of `performer` by a full table at the current epoch.
    function settle(bytes32 taskId, uint256 performer, bool isApproved) internal {
        IAttestationCenter.TaskInfo memory info = makeInfo(taskId, performer, tables.currentEpoch());
        center.submitTask(info, certify(info, isApproved, type(uint256).max));
    }
}
