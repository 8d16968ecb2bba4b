// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {Network} from "./Network.sol";

/// @notice A network in random motion: every step is legal or is known to be refused, and the model keeps the books.
contract Motion is Network {
    uint256 private constant IDS = 8;
    uint256 private constant MAX_OPEN_SLASHES = 16;

    uint256 public paidIn;
    uint256 public paidOut;
    uint256 public settled;
    uint256 public withdrawals;
    uint256 public slashes;
    bytes32[] public tasks;
    mapping(bytes32 taskId => uint8 verdict) public expectedVerdict;
    bytes32[] private queued;

    /// @dev Starts in the middle of things, so that most steps have something to work on.
    function setUp() public override {
        super.setUp();
        for (uint256 id = 1; id <= 5; ++id) {
            uint256 stake = id * MINIMUM_STAKE;
            paidIn += stake;
            join(id, PERFORMER | ATTESTER, stake);
        }
        roll();
    }

    function idAt(uint256 seed) private pure returns (uint256) {
        return 1 + seed % IDS;
    }

    // --- steps -------------------------------------------------------------------------------------------------------

    function enter(uint256 seed, uint8 roles, uint256 stake) external {
        uint256 id = idAt(seed);
        if (registry.rolesOf(accountOf(id)) != 0) return;
        stake = bound(stake, MINIMUM_STAKE, 5 * MINIMUM_STAKE);
        paidIn += stake;
        join(id, uint8(bound(roles, 1, 7)), stake);
    }

    function addStake(uint256 seed, uint256 amount) external {
        address account = accountOf(idAt(seed));
        if (!_isStaying(account)) return;
        amount = bound(amount, 0, MINIMUM_STAKE);
        vm.deal(account, account.balance + amount);
        paidIn += amount;
        vm.prank(account);
        registry.addStake{value: amount}();
    }

    function leave(uint256 seed) external {
        address account = accountOf(idAt(seed));
        if (!_isStaying(account)) return;
        vm.prank(account);
        registry.leave();
    }

    function withdraw(uint256 seed) external {
        address account = _someoneLeaving(seed);
        uint256 before = account.balance;
        uint256 expected = registry.rolesOf(account) == 0 ? 0 : registry.operatorOf(account).stake;
        vm.prank(account);
        try registry.withdraw() {
            require(account.balance == before + expected, "exact wei");
            paidOut += expected;
            ++withdrawals;
        } catch {
            require(account.balance == before, "refused and paid");
        }
    }

    function wait(uint256 duration) external {
        vm.warp(block.timestamp + bound(duration, 1, 10 days));
    }

    function rollIfDue() external {
        if (block.timestamp >= registry.rollableAt()) registry.rollEpoch();
    }

    /// @dev A certificate by a random part of a random valid table; it must settle exactly if the model says so.
    function certifyAndSubmit(uint256 seed, bool isApproved, uint256 signers) external {
        uint32 epoch = registry.currentEpoch();
        if (epoch == 0) return;
        if (seed & 1 == 1 && epoch > 1) --epoch;
        uint256 performer = idAt(seed >> 1);
        bytes32 taskId = bytes32(bound(seed >> 16, 1, 64));
        IAttestationCenter.TaskInfo memory info = makeInfo(taskId, performer, epoch);
        idOf[accountOf(performer)] = performer;
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, isApproved, signers);
        bool isDue = expectedVerdict[taskId] == 0 && registry.rolesOf(info.taskPerformer) & PERFORMER != 0
            && _isQuorum(epoch, isApproved, signers);
        if (isDue && !isApproved && queued.length == MAX_OPEN_SLASHES) return;
        try center.submitTask(info, details) {
            require(isDue, "settled without a quorum, twice, or for nobody");
            ++settled;
            tasks.push(taskId);
            expectedVerdict[taskId] = isApproved ? 1 : 2;
            if (!isApproved) queued.push(taskId);
        } catch {
            require(!isDue, "refused a good certificate");
        }
    }

    function executeSlash(uint256 seed) external {
        if (queued.length == 0) return;
        uint256 position = seed % queued.length;
        bytes32 taskId = queued[position];
        if (block.timestamp < center.slashOf(taskId).executableAt) return;
        uint256 stake = registry.operatorOf(center.slashOf(taskId).operator).stake;
        require(center.executeSlash(taskId) == stake / 10, "a tenth of what is there");
        ++slashes;
        queued[position] = queued[queued.length - 1];
        queued.pop();
    }

    function emptyVault() external {
        paidOut += registry.vaultBalance();
        vm.prank(vault);
        registry.withdrawVault();
    }

    // --- asked by the invariants -------------------------------------------------------------------------------------

    function taskCount() external view returns (uint256) {
        return tasks.length;
    }

    function network() external view returns (IOperatorRegistry, IAttestationCenter) {
        return (registry, center);
    }

    /// @dev Everybody goes, with what is theirs; called on a copy of the state.
    function everybodyLeaves() external {
        for (uint256 id = 1; id <= IDS; ++id) {
            if (!_isStaying(accountOf(id))) continue;
            vm.prank(accountOf(id));
            registry.leave();
        }
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        roll();
        roll();
        for (uint256 i = 0; i < queued.length; ++i) {
            center.executeSlash(queued[i]);
        }
        for (uint256 id = 1; id <= IDS; ++id) {
            address account = accountOf(id);
            if (registry.rolesOf(account) == 0 || !_isListed(account)) continue;
            uint256 expected = account.balance + registry.operatorOf(account).stake;
            vm.prank(account);
            registry.withdraw();
            require(account.balance == expected, "exact wei");
        }
        require(registry.operatorCount() == 0 && registry.totalStake() == 0, "somebody is left");
        require(address(registry).balance == registry.vaultBalance(), "wei are left");
    }

    // --- the model ---------------------------------------------------------------------------------------------------

    function _isStaying(address account) private view returns (bool) {
        return registry.rolesOf(account) != 0 && registry.operatorOf(account).withdrawableAt == 0;
    }

    /// @dev The first who has left and not withdrawn, from a random one on; that one if there is nobody.
    function _someoneLeaving(uint256 seed) private view returns (address) {
        for (uint256 i = 0; i < IDS; ++i) {
            address account = accountOf(idAt(seed % IDS + i));
            bool isLeaving = registry.rolesOf(account) != 0 && registry.operatorOf(account).withdrawableAt != 0;
            if (isLeaving && _isListed(account)) return account;
        }
        return accountOf(idAt(seed));
    }

    function _isListed(address account) private view returns (bool) {
        IOperatorRegistry.Operator[] memory list = registry.operators();
        for (uint256 i = 0; i < list.length; ++i) {
            if (list[i].operator == account) return true;
        }
        return false;
    }

    function _isQuorum(uint32 epoch, bool isApproved, uint256 signers) private view returns (bool) {
        (,, uint64[] memory powers) = registry.tableOf(epoch);
        (uint256 power, uint256 total) = (0, 0);
        for (uint256 i = 0; i < powers.length; ++i) {
            total += powers[i];
            if (signers >> i & 1 == 1) power += powers[i];
        }
        return isApproved ? 3 * power > 2 * total : 3 * power > total;
    }
}

contract InvariantsTest {
    Motion private motion;
    IOperatorRegistry private registry;
    IAttestationCenter private center;

    function setUp() public {
        motion = new Motion();
        motion.setUp();
        (registry, center) = motion.network();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(motion);
    }

    struct Selectors {
        address target;
        bytes4[] selectors;
    }

    function targetSelectors() public view returns (Selectors[] memory targets) {
        targets = new Selectors[](1);
        bytes4[] memory steps = new bytes4[](10);
        (steps[0], steps[1]) = (Motion.enter.selector, Motion.addStake.selector);
        (steps[2], steps[3]) = (Motion.leave.selector, Motion.withdraw.selector);
        (steps[4], steps[5]) = (Motion.wait.selector, Motion.rollIfDue.selector);
        (steps[6], steps[7]) = (Motion.certifyAndSubmit.selector, Motion.certifyAndSubmit.selector);
        (steps[8], steps[9]) = (Motion.executeSlash.selector, Motion.emptyVault.selector);
        targets[0] = Selectors(address(motion), steps);
    }

    function invariant_EveryWeiIsAccountedFor() public view {
        IOperatorRegistry.Operator[] memory list = registry.operators();
        uint256 stakes = 0;
        for (uint256 i = 0; i < list.length; ++i) {
            stakes += list[i].stake;
        }
        require(stakes == registry.totalStake(), "the stakes add up to the total");
        require(address(registry).balance == stakes + registry.vaultBalance(), "stake and vault are what is here");
        require(motion.paidIn() == motion.paidOut() + address(registry).balance, "what came in went out or is here");
    }

    function invariant_AVerdictIsAQuorumsAndStays() public view {
        for (uint256 i = 0; i < motion.taskCount(); ++i) {
            bytes32 taskId = motion.tasks(i);
            require(center.verdictOf(taskId) == motion.expectedVerdict(taskId), "the first verdict stays");
        }
        require(motion.taskCount() == motion.settled(), "each task settles once");
    }

    /// @dev What an invariant does to the state is forgotten afterwards.
    function invariant_EverybodyCanLeaveWithWhatIsTheirs() public {
        motion.everybodyLeaves();
    }
}
