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
        bytes4[24] memory all = [
            Stakes.enter.selector,
            Stakes.addStake.selector,
            Stakes.leave.selector,
            Stakes.withdraw.selector,
            Stakes.rotate.selector,
            Stakes.rollNow.selector,
            Stakes.rollSet.selector,
            Stakes.wait.selector,
            Stakes.pause.selector,
            Verdicts.settleSingly.selector,
            Verdicts.settleBatch.selector,
            Verdicts.contradict.selector,
            FeeFlows.deposit.selector,
            FeeFlows.startRefund.selector,
            FeeFlows.refund.selector,
            FeeFlows.collect.selector,
            FeeFlows.claim.selector,
            Offences.equivocate.selector,
            Offences.breakPromise.selector,
            Offences.nameHarmed.selector,
            Offences.execute.selector,
            Offences.certifyDecision.selector,
            Offences.announceVeto.selector,
            Offences.pay.selector
        ];
        bytes4[] memory steps = new bytes4[](all.length + 3);
        for (uint256 i = 0; i < all.length; ++i) {
            steps[i] = all[i];
        }
        steps[all.length] = Offences.executeVeto.selector;
        steps[all.length + 1] = Offences.forceCoin.selector;
        steps[all.length + 2] = Offences.accuseTheHonest.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(motion), steps);
    }

    /// @dev One invariant, not many: each would run through all the steps again.
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
