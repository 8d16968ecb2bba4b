// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Base} from "./Base.sol";
import {Keys} from "./Keys.sol";

/// @notice A registry and a center with operators whose keys are derived from small numbers, so that a test can make
/// any certificate, honest or not.
abstract contract Network is Base {
    uint8 internal constant PERFORMER = 1;
    uint8 internal constant ATTESTER = 2;
    uint8 internal constant AGGREGATOR = 4;

    uint256 internal constant MINIMUM_STAKE = 1000 gwei;
    uint64 internal constant UNBONDING_SECONDS = 14 days;
    uint64 internal constant EPOCH_SECONDS = 1 hours;
    uint256 internal constant SLASH_WAD = 0.1e18;
    uint64 internal constant DISPUTE_WINDOW = 1 days;
    uint256 internal constant START = 1_800_000_000;

    address internal immutable vault = address(uint160(uint256(keccak256("vault"))));
    address internal immutable owner = address(uint160(uint256(keccak256("owner"))));

    IOperatorRegistry internal registry;
    IAttestationCenter internal center;
    mapping(address operator => uint256 id) internal idOf;

    function setUp() public virtual {
        vm.warp(START);
        registry = deployRegistry(MINIMUM_STAKE, UNBONDING_SECONDS, EPOCH_SECONDS, vault);
        center = deployCenter(registry, SLASH_WAD, DISPUTE_WINDOW);
        registry.setCenter(address(center));
        vm.prank(owner);
        center.createTaskDefinition("digits", "exact", keccak256("model"), "bafkrei");
    }

    // --- deploying ---------------------------------------------------------------------------------------------------

    function deployRegistry(uint256 minimumStake, uint64 unbonding, uint64 epoch, address vault_)
        internal
        returns (IOperatorRegistry)
    {
        bytes memory arguments = abi.encode(minimumStake, unbonding, epoch, vault_);
        return IOperatorRegistry(deploy("OperatorRegistry.sol:OperatorRegistry", arguments));
    }

    function deployCenter(IOperatorRegistry registry_, uint256 slashWad, uint64 disputeWindow)
        internal
        returns (IAttestationCenter)
    {
        bytes memory arguments = abi.encode(registry_, owner, slashWad, disputeWindow);
        return IAttestationCenter(deploy("AttestationCenter.sol:AttestationCenter", arguments));
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
        bytes32 digest = registry.possessionDigest(operator, keccak256(Keys.publicKey(voteSecret(id))));
        return Keys.sign(voteSecret(id), digest, BLS12381.POSSESSION_TAG);
    }

    /// @dev Registers operator `id`, with a vote key if it attests.
    function join(uint256 id, uint8 roles, uint256 stake) internal returns (address account) {
        account = accountOf(id);
        idOf[account] = id;
        bool attests = roles & ATTESTER != 0;
        bytes memory key = attests ? Keys.publicKey(voteSecret(id)) : bytes("");
        bytes memory possession = attests ? possessionOf(id, account) : bytes("");
        vm.deal(account, account.balance + stake);
        vm.prank(account);
        registry.register{value: stake}(roles, key, possession, peerKeyOf(id), "/ip4/127.0.0.1", "http://node");
    }

    /// @dev Lets enough time pass, then rolls.
    function roll() internal returns (uint32) {
        if (block.timestamp < registry.rollableAt()) vm.warp(registry.rollableAt());
        return registry.rollEpoch();
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

    /// @dev A certificate by the attesters of `info.epoch`'s table whose bits are set in `signers`.
    function certify(IAttestationCenter.TaskInfo memory info, bool isApproved, uint256 signers)
        internal
        view
        returns (IAttestationCenter.TaskSubmissionDetails memory details)
    {
        bytes32 infoHash = center.taskInfoHash(info);
        details.isApproved = isApproved;
        details.tpSignature = performerSignature(idOf[info.taskPerformer], infoHash);
        bytes32 digest = center.voteDigest(infoHash, isApproved ? 1 : 2);
        (details.taSignature, details.indices) = vote(digest, info.epoch, isApproved, signers);
    }

    /// @dev The aggregate over `digest` by the set bits of `signers`, and the indices that go with it.
    function vote(bytes32 digest, uint32 epoch, bool isApproval, uint256 signers)
        internal
        view
        returns (bytes memory signature, bytes memory indices)
    {
        (address[] memory members,,) = registry.tableOf(epoch);
        uint256 secret = 0;
        for (uint256 i = 0; i < members.length; ++i) {
            bool signs = signers >> i & 1 == 1;
            if (signs) secret = addmod(secret, voteSecret(idOf[members[i]]), Keys.ORDER);
            if (signs != isApproval) indices = abi.encodePacked(indices, uint8(i));
        }
        signature = Keys.sign(secret, digest, BLS12381.SIGNATURE_TAG);
    }

    function performerSignature(uint256 performer, bytes32 infoHash) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(ecdsaSecret(performer), infoHash);
        return abi.encodePacked(r, s, v);
    }

    /// @dev Settles a task of `performer` by a full table at the current epoch.
    function settle(bytes32 taskId, uint256 performer, bool isApproved) internal {
        IAttestationCenter.TaskInfo memory info = makeInfo(taskId, performer, registry.currentEpoch());
        center.submitTask(info, certify(info, isApproved, type(uint256).max));
    }
}
