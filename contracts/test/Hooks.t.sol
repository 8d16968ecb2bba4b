// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IAvsLogic} from "../src/interfaces/IAvsLogic.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {Vm} from "./Base.sol";
import {Network} from "./Network.sol";

/// @notice Hooks, honest and not. Branches: tree/hooks.tree.
contract HooksTest is Network {
    uint256 private constant PERFORMER_ID = 9;
    uint256 private constant EVERYBODY = type(uint256).max;
    uint256 private constant HOOK_GAS = 200_000;
    /// HOOK_GAS · 64/63, rounded up, and 10,000 for the call.
    uint256 private constant GAS_BEFORE_HOOK = 213_175;
    address private performer;

    function setUp() public override {
        super.setUp();
        performer = join(PERFORMER_ID, PERFORMER, 10 * MINIMUM_STAKE);
        for (uint256 id = 1; id <= 4; ++id) {
            join(id, ATTESTER, MINIMUM_STAKE);
        }
        roll();
    }

    // --- helpers -----------------------------------------------------------------------------------------------------

    /// @dev A task of a new definition with this hook, and its certificate.
    function _prepare(address hook, bool isApproved)
        private
        returns (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details)
    {
        IAttestationCenter.TaskTerms memory with = terms();
        with.hook = hook;
        info = makeInfo("task", PERFORMER_ID, tables.currentEpoch());
        info.taskDefinitionId = addDefinition(with);
        details = certify(info, isApproved, 7);
    }

    function _expectFailed(address hook, bool isBefore) private {
        vm.expectEmit(address(center));
        emit IAttestationCenter.HookFailed("task", hook, isBefore);
    }

    /// @dev What settles a task whose hook does nothing at all.
    function _gasWithout() private returns (uint256 used) {
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(address(0), true);
        uint256 snapshot = vm.snapshotState();
        used = gasleft();
        center.submitTask(info, details);
        used -= gasleft();
        vm.revertToState(snapshot);
    }

    function _settlesWith(
        IAttestationCenter.TaskInfo memory info,
        IAttestationCenter.TaskSubmissionDetails memory details,
        uint256 gasLimit
    ) private returns (bool) {
        try center.submitTask{gas: gasLimit}(info, details) {
            return true;
        } catch {
            return false;
        }
    }

    // --- honest hooks ------------------------------------------------------------------------------------------------

    function _assertHeard(bool isApproved) private {
        RecordingHook hook = new RecordingHook();
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(address(hook), isApproved);
        vm.recordLogs();
        center.submitTask(info, details);
        assertTrue(!_hasFailed(), "no failure");
        assertEq(hook.count(), 2, "two calls");
        bytes32 heard =
            keccak256(abi.encode(info, isApproved, details.tpSignature, details.taSignature, details.indices));
        (bool isBefore, address caller, uint8 verdict, bytes32 argumentsHash) = hook.calls(0);
        assertTrue(isBefore && caller == address(center) && verdict == 0, "before there is a verdict");
        assertEq(argumentsHash, heard, "what came before");
        (isBefore, caller, verdict, argumentsHash) = hook.calls(1);
        assertTrue(!isBefore && caller == address(center), "after");
        assertEq(verdict, isApproved ? VALID : INVALID, "there is a verdict");
        assertEq(argumentsHash, heard, "what came after");
    }

    function _hasFailed() private returns (bool hasFailed) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            hasFailed = hasFailed || logs[i].topics[0] == IAttestationCenter.HookFailed.selector;
        }
    }

    function test_hook_HearsOfAnApproval() public {
        _assertHeard(true);
    }

    function test_hook_HearsOfARejectionWhoseSlashIsQueued() public {
        _assertHeard(false);
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, "task", performer);
        assertTrue(court.slashOf(slashId).state == ISlashingCourt.State.WAITING, "queued");
    }

    function test_hook_HearsNothingOfWhatIsRefused() public {
        RecordingHook hook = new RecordingHook();
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(address(hook), true);
        details.taSignature = certify(makeInfo("other", PERFORMER_ID, 1), true, 7).taSignature;
        vm.expectRevert();
        center.submitTask(info, details);
        assertEq(hook.count(), 0, "no call");
    }

    // --- hooks that fail ---------------------------------------------------------------------------------------------

    function _assertSettlesPast(address hook) private {
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(hook, false);
        _expectFailed(hook, true);
        _expectFailed(hook, false);
        center.submitTask(info, details);
        assertEq(center.verdictOf("task"), INVALID, "settled");
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, "task", performer);
        assertTrue(court.slashOf(slashId).state == ISlashingCourt.State.WAITING, "queued");
    }

    function test_hook_ThatRevertsChangesNothing() public {
        _assertSettlesPast(address(new RevertingHook()));
    }

    function test_hook_ThatIsNoHookChangesNothing() public {
        _assertSettlesPast(address(tables));
    }

    function test_hook_ThatFailsOnceIsToldFromOneThatFailsTwice() public {
        LateFailure hook = new LateFailure();
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(address(hook), true);
        vm.recordLogs();
        center.submitTask(info, details);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        assertEq(logs.length, 2, "the verdict, and one failure");
        assertEq(logs[1].topics[0], IAttestationCenter.HookFailed.selector, "failure");
        assertEq(logs[1].data, abi.encode(address(hook), false), "after");
    }

    function test_hook_BurnsNoMoreThanItsOwn() public {
        uint256 without = _gasWithout();
        address hook = address(new BurningHook());
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(hook, true);
        uint256 used = gasleft();
        center.submitTask(info, details);
        used -= gasleft();
        assertEq(center.verdictOf("task"), VALID, "settled");
        assertTrue(used > 2 * HOOK_GAS, "burnt");
        assertTrue(used < without + 2 * HOOK_GAS + 20_000, "and no more");
    }

    function test_hook_CannotMakeTheSubmitterCopyItsAnswer() public {
        uint256 without = _gasWithout();
        address hook = address(new TalkativeHook());
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(hook, true);
        _expectFailed(hook, true);
        _expectFailed(hook, false);
        uint256 used = gasleft();
        center.submitTask(info, details);
        used -= gasleft();
        assertTrue(used < without + 2 * HOOK_GAS + 20_000, "the answer stays where it is");
    }

    // --- hooks that come back ----------------------------------------------------------------------------------------

    /// @dev The hook is shown a certificate that has not settled yet: in its own name it would be the aggregator.
    function test_hook_CannotSettleTheTaskInItsOwnName() public {
        ThievingHook hook = new ThievingHook(center);
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(address(hook), true);
        center.submitTask(info, details);
        bytes memory refusal = abi.encodeWithSelector(IAttestationCenter.TaskAlreadySettled.selector, bytes32("task"));
        assertEq(hook.answers(0), refusal, "before");
        assertEq(hook.answers(1), refusal, "after");
        _assertAggregator(info, address(this));
    }

    function _assertAggregator(IAttestationCenter.TaskInfo memory info, address aggregator) private view {
        IAttestationCenter.SettlementProof memory proof;
        proof.aggregator = aggregator;
        bytes32 voters = center.votersHashOf(info.epoch, 0, hex"03");
        center.requireSettled(info.taskId, center.taskInfoHash(info), true, voters, proof);
    }

    /// @dev Nor by another certificate of the same task: under a definition without a hook, say.
    function test_hook_CannotSettleTheTaskByAnotherCertificate() public {
        StubbornHook hook = new StubbornHook(center);
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(address(hook), true);
        IAttestationCenter.TaskInfo memory other = makeInfo("task", PERFORMER_ID, info.epoch);
        hook.hold(other, certify(other, false, 7));
        center.submitTask(info, details);
        bytes memory refusal = abi.encodeWithSelector(IAttestationCenter.TaskAlreadySettled.selector, bytes32("task"));
        assertEq(hook.answer(), refusal, "refused");
        assertEq(center.verdictOf("task"), VALID, "one verdict");
        _assertAggregator(info, address(this));
    }

    /// @dev Anybody may settle any other task at any time, so may a hook: it is told what is wrong with that one.
    function test_hook_IsNotKeptFromAnotherTask() public {
        StubbornHook hook = new StubbornHook(center);
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(address(hook), true);
        IAttestationCenter.TaskInfo memory other = makeInfo("other", PERFORMER_ID, info.epoch);
        other.taskDefinitionId = 99;
        hook.hold(other, details);
        center.submitTask(info, details);
        assertEq(
            hook.answer(),
            abi.encodeWithSelector(IAttestationCenter.UnknownTaskDefinition.selector, 99),
            "the other task's own fault"
        );
        _assertAggregator(info, address(this));
    }

    // --- submitters that starve --------------------------------------------------------------------------------------

    function test_submitTask_SaysHowMuchGasAHookNeeds() public {
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(address(new GasHook()), true);
        try center.submitTask{gas: GAS_BEFORE_HOOK}(info, details) {
            assertTrue(false, "too little");
        } catch (bytes memory answer) {
            bytes memory refusal =
                abi.encodeWithSelector(IAttestationCenter.GasTooLow.selector, _leftOf(answer), GAS_BEFORE_HOOK);
            assertEq(answer, refusal, "refusal");
            assertTrue(_leftOf(answer) < GAS_BEFORE_HOOK, "left");
        }
        assertEq(center.verdictOf("task"), 0, "not settled");
    }

    function _leftOf(bytes memory answer) private pure returns (uint256 left) {
        assembly ("memory-safe") {
            left := mload(add(answer, 36))
        }
    }

    /// @dev What the hook finds left when there is plenty: HOOK_GAS less the start of its code.
    function _gasGivenOfPlenty(
        GasHook hook,
        IAttestationCenter.TaskInfo memory info,
        IAttestationCenter.TaskSubmissionDetails memory details
    ) private returns (uint256 given) {
        uint256 snapshot = vm.snapshotState();
        center.submitTask{gas: 5_000_000}(info, details);
        assertEq(hook.least(), hook.most(), "both calls alike");
        given = hook.least();
        assertTrue(given <= HOOK_GAS && given > HOOK_GAS - 500, "all that it may use");
        vm.revertToState(snapshot);
    }

    /// @dev The least gas that settles gives the hook its all; `delegate` is what the hook's account delegates to.
    function _assertLeastGasIsEnough(GasHook hook, address delegate) private {
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(address(hook), true);
        uint256 given = _gasGivenOfPlenty(hook, info, details);
        (uint256 tooLittle, uint256 enough) = (100_000, 2_000_000);
        while (enough - tooLittle > 1) {
            uint256 middle = (enough + tooLittle) / 2;
            uint256 snapshot = vm.snapshotState();
            vm.cool(address(hook));
            vm.cool(delegate);
            if (_settlesWith(info, details, middle)) enough = middle;
            else tooLittle = middle;
            vm.revertToState(snapshot);
        }
        vm.cool(address(hook));
        vm.cool(delegate);
        assertTrue(_settlesWith(info, details, enough), "settles");
        assertEq(hook.count(), 2, "both calls");
        assertEq(hook.least(), given, "as much as of plenty");
    }

    function test_hook_IsNotStarved() public {
        GasHook hook = new GasHook();
        _assertLeastGasIsEnough(hook, address(hook));
    }

    /// @dev An account that delegates (EIP-7702) costs twice to call.
    function test_hook_ThatDelegatesIsNotStarved() public {
        address hook = address(uint160(uint256(keccak256("delegating"))));
        GasHook delegate = new GasHook();
        vm.etch(hook, abi.encodePacked(hex"ef0100", address(delegate)));
        _assertLeastGasIsEnough(GasHook(hook), address(delegate));
    }

    function testFuzz_hook_IsServedOrNothingHappens(uint256 gasLimit) public {
        gasLimit = bound(gasLimit, 300_000, 800_000);
        GasHook hook = new GasHook();
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare(address(hook), true);
        uint256 given = _gasGivenOfPlenty(hook, info, details);
        if (_settlesWith(info, details, gasLimit)) {
            assertEq(hook.count(), 2, "both calls");
            assertEq(hook.least(), given, "as much as of plenty");
        } else {
            assertEq(center.recordOf("task"), 0, "nothing is recorded");
            assertEq(hook.count(), 0, "nor heard of");
        }
    }
}

/// @notice Notes what it hears.
contract RecordingHook is IAvsLogic {
    struct Call {
        bool isBefore;
        address caller;
        uint8 verdict;
        bytes32 argumentsHash;
    }

    Call[] public calls;

    function count() external view returns (uint256) {
        return calls.length;
    }

    function beforeTaskSubmission(
        IAttestationCenter.TaskInfo calldata info,
        bool,
        bytes calldata,
        bytes calldata,
        bytes calldata
    ) external {
        _note(true, info.taskId);
    }

    function afterTaskSubmission(
        IAttestationCenter.TaskInfo calldata info,
        bool,
        bytes calldata,
        bytes calldata,
        bytes calldata
    ) external {
        _note(false, info.taskId);
    }

    function _note(bool isBefore, bytes32 taskId) private {
        uint8 verdict = IAttestationCenter(msg.sender).verdictOf(taskId);
        calls.push(Call(isBefore, msg.sender, verdict, keccak256(msg.data[4:])));
    }
}

/// @notice Reverts whatever it hears.
contract RevertingHook {
    error NotToday();

    fallback() external {
        revert NotToday();
    }
}

/// @notice Hears of what comes, fails when it came.
contract LateFailure {
    fallback() external {
        require(msg.sig == IAvsLogic.beforeTaskSubmission.selector, "late");
    }
}

/// @notice Uses up all it is given.
contract BurningHook {
    fallback() external {
        assembly ("memory-safe") {
            invalid()
        }
    }
}

/// @notice Reverts with as many bytes as its gas makes: about 250,000.
contract TalkativeHook {
    fallback() external {
        assembly ("memory-safe") {
            revert(0, 250000)
        }
    }
}

/// @notice Submits the very certificate that it is shown, and keeps the answers.
contract ThievingHook is IAvsLogic {
    IAttestationCenter private immutable _center;
    bytes[] public answers;

    constructor(IAttestationCenter center) {
        _center = center;
    }

    function beforeTaskSubmission(
        IAttestationCenter.TaskInfo calldata info,
        bool isApproved,
        bytes calldata tpSignature,
        bytes calldata taSignature,
        bytes calldata indices
    ) external {
        _submit(info, IAttestationCenter.TaskSubmissionDetails(isApproved, tpSignature, taSignature, indices));
    }

    function afterTaskSubmission(
        IAttestationCenter.TaskInfo calldata info,
        bool isApproved,
        bytes calldata tpSignature,
        bytes calldata taSignature,
        bytes calldata indices
    ) external {
        _submit(info, IAttestationCenter.TaskSubmissionDetails(isApproved, tpSignature, taSignature, indices));
    }

    function _submit(IAttestationCenter.TaskInfo calldata info, IAttestationCenter.TaskSubmissionDetails memory details)
        private
    {
        try _center.submitTask(info, details) {
            answers.push("");
        } catch (bytes memory answer) {
            answers.push(answer);
        }
    }
}

/// @notice Submits a certificate that it holds when it hears of any; of what came it hears nothing.
contract StubbornHook {
    IAttestationCenter private immutable _center;
    bytes private _submission;
    bytes public answer;

    constructor(IAttestationCenter center) {
        _center = center;
    }

    function hold(IAttestationCenter.TaskInfo calldata info, IAttestationCenter.TaskSubmissionDetails calldata details)
        external
    {
        _submission = abi.encodeCall(_center.submitTask, (info, details));
        answer = "not asked";
    }

    fallback() external {
        if (msg.sig != IAvsLogic.beforeTaskSubmission.selector) return;
        bool isDone;
        (isDone, answer) = address(_center).call(_submission);
        if (isDone) answer = "settled";
    }
}

/// @notice Measures the gas that it is given.
contract GasHook {
    uint256 public count;
    uint256 public least = type(uint256).max;
    uint256 public most;

    fallback() external {
        uint256 given = gasleft();
        ++count;
        if (count == 1 || given < least) least = given;
        if (given > most) most = given;
    }
}
