// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Base} from "./Base.sol";
import {FeeFlows} from "./motion/FeeFlows.sol";
import {Motion} from "./motion/Motion.sol";
import {Offences} from "./motion/Offences.sol";
import {Stakes} from "./motion/Stakes.sol";
import {Verdicts} from "./motion/Verdicts.sol";

/// @notice What holds after any steps in any order, by all five contracts together.
contract InvariantsTest is Base {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    error StepFailed(bytes4 step, bytes answer);

    uint256 private constant RUNS = 8;
    uint256 private constant DEPTH = 96;

    Motion private motion;

    function setUp() public {
        motion = new Motion();
        motion.setUp();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(motion);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(motion), _steps());
    }

    function _steps() private pure returns (bytes4[] memory steps) {
        bytes4[30] memory all = [
            Stakes.enter.selector, // roles have to fit a byte
            Stakes.pause.selector, // of these two the second argument is a bool
            Verdicts.settleSingly.selector,
            Stakes.addStake.selector,
            Stakes.leave.selector,
            Stakes.withdraw.selector,
            Stakes.rotate.selector,
            Stakes.rollNow.selector,
            Stakes.rollSet.selector,
            Stakes.wait.selector,
            Stakes.wait.selector,
            Verdicts.settleBatch.selector,
            Verdicts.contradict.selector,
            FeeFlows.deposit.selector,
            FeeFlows.startRefund.selector,
            FeeFlows.refund.selector,
            FeeFlows.collect.selector,
            FeeFlows.collect.selector,
            FeeFlows.claim.selector,
            Offences.equivocate.selector,
            Offences.accuseTheHonest.selector,
            Offences.breakPromise.selector,
            Offences.nameHarmed.selector,
            Offences.execute.selector,
            Offences.execute.selector,
            Offences.certifyDecision.selector,
            Offences.announceVeto.selector,
            Offences.executeVeto.selector,
            Offences.pay.selector,
            Offences.forceCoin.selector
        ];
        steps = new bytes4[](all.length);
        for (uint256 i = 0; i < all.length; ++i) {
            steps[i] = all[i];
        }
    }

    // --- the motion is one -------------------------------------------------------------------------------------------

    /// @dev The same steps, of a fixed seed: a motion in which nothing happens would show nothing.
    function test_motion_BringsEverythingAbout() public {
        bytes32[18] memory events = [
            bytes32("enter"),
            "leave",
            "withdraw",
            "rotate",
            "roll",
            "approve",
            "reject",
            "batch",
            "refund",
            "collect",
            "claim",
            "equivocation",
            "broken promise",
            "slash",
            "cancel",
            "veto",
            "overrule",
            "pay"
        ];
        uint256[18] memory counts;
        uint256 state = vm.snapshotState();
        for (uint256 run = 0; run < RUNS; ++run) {
            _move(uint256(keccak256(abi.encode("motion", run))));
            for (uint256 i = 0; i < events.length; ++i) {
                counts[i] += motion.done(events[i]);
            }
            afterInvariant();
            assertTrue(vm.revertToState(state), "another run");
            state = vm.snapshotState();
        }
        for (uint256 i = 0; i < events.length; ++i) {
            assertTrue(counts[i] != 0, string(abi.encodePacked("never: ", events[i])));
        }
    }

    function _move(uint256 seed) private {
        bytes4[] memory steps = _steps();
        for (uint256 i = 0; i < DEPTH; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            uint256 step = seed % steps.length;
            bytes32 second = keccak256(abi.encode("second", seed));
            if (step < 3) second &= bytes32(uint256(1));
            (bool done, bytes memory answer) = address(motion)
                .call(abi.encodeWithSelector(steps[step], seed >> 16, second, keccak256(abi.encode("third", seed))));
            if (!done) revert StepFailed(steps[step], answer);
        }
    }

    // --- whatever happens --------------------------------------------------------------------------------------------

    /// @dev One invariant, not many: each would run through all the steps again.
    /// forge-config: default.invariant.runs = 20
    /// forge-config: default.invariant.depth = 96
    function invariant_EveryWeiAndEveryVerdictIsInTheBooks() public view {
        motion.requireEveryWeiIsSomebodys();
        motion.requireEverybodyHasWhatWasPaid();
        motion.requireVerdictsStay();
    }

    /// @dev Forge calls it once, at the end of each run.
    function afterInvariant() public {
        motion.everybodyGoes();
        motion.requireEveryWeiIsSomebodys();
        motion.requireEverybodyHasWhatWasPaid();
    }
}
