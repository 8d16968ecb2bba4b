// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../../src/Governed.sol";
import {ITaskEscrow} from "../../src/interfaces/ITaskEscrow.sol";
import {Offences} from "./Offences.sol";

/// @notice All five contracts in random motion. Each step is known beforehand to succeed, or to be refused with a known
/// error; what is to hold whatever happens is asked for here.
contract Motion is Offences {
    /// @dev Starts in the middle of things, so that most steps have something to work on.
    function setUp() public override {
        super.setUp();
        for (uint256 id = 1; id <= 7; ++id) {
            start(id);
        }
        rollNow(0);
        leaveAs(accountOf(7), 7);
        for (uint256 i = 0; i < REQUESTERS; ++i) {
            for (uint256 id = 1; id <= OPERATORS; ++id) {
                fill(requesterAt(i), accountOf(id));
            }
        }
    }

    /// @dev Operators 1 to 7 both perform and attest, with unequal stakes; 7 is on its way out.
    function start(uint256 id) private {
        uint256 stake = MINIMUM_STAKE + id * 0.37 ether;
        join(id, PERFORMER | ATTESTER, stake);
        (books[id].roles, books[id].stake) = (PERFORMER | ATTESTER, stake);
        secretOf[keccak256(tables.voteKeyOf(accountOf(id)))] = voteSecret(id);
        cameIn += stake;
    }

    function fill(address requester, address performer) private {
        bytes memory message = abi.encodeCall(ITaskEscrow.deposit, (requester, performer, 100 gwei));
        attempt(accountOf(STRANGER_ID), address(escrow), 100 gwei, message, 0);
        purses[requester][performer].balance = 100 gwei;
    }

    // --- what holds after any steps ----------------------------------------------------------------------------------

    function requireEveryWeiIsSomebodys() external view {
        uint256 stakes = 0;
        for (uint256 id = 1; id <= OPERATORS; ++id) {
            stakes += books[id].stake;
        }
        assertEq(address(registry).balance, stakes, "the registry has the stakes");
        assertEq(registry.totalStake(), stakes, "total stake");
        assertEq(address(escrow).balance, shouldBeHeld(), "the escrow has deposits, earnings and pools");
        assertEq(escrow.held(), shouldBeHeld(), "held");
        assertEq(address(court).balance, totalOwed + forcedIn, "the court has what it owes");
        assertEq(court.totalOwed(), totalOwed, "total owed");
        assertTrue(attesterClaims <= attesterFees, "attesters get no more than their fees");
        uint256 here = address(registry).balance + address(escrow).balance + address(court).balance - forcedIn;
        assertEq(cameIn, here + wentOut, "what came in is here or was paid out");
    }

    function requireEverybodyHasWhatWasPaid() external view {
        uint256 sum = requireHas(vault) + requireHas(accountOf(AGGREGATOR_ID)) + requireHas(accountOf(STRANGER_ID));
        for (uint256 i = 0; i < REQUESTERS; ++i) {
            sum += requireHas(requesterAt(i));
        }
        for (uint256 id = 1; id <= OPERATORS; ++id) {
            sum += requireHas(accountOf(id));
        }
        assertEq(sum, wentOut, "and nobody else has anything");
    }

    function requireHas(address account) private view returns (uint256) {
        assertEq(account.balance, paidTo[account], "the exact wei");
        return account.balance;
    }

    // --- the end -----------------------------------------------------------------------------------------------------

    /// @dev Everything is paused, and everybody goes with everything: nobody's help is needed.
    function everybodyGoes() external {
        pauseEverything();
        requireVerdictsAreProven();
        for (uint256 id = 1; id <= OPERATORS; ++id) {
            if (isStaying(id)) leaveAs(accountOf(id), id);
        }
        askEverythingBack();
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        if (!isDue && block.timestamp < rolledAt + EPOCH_SECONDS) revert("not even a roll");
        rollNow(1);
        vm.warp(block.timestamp + GRACE_SECONDS + 1);
        decideEverything();
        for (uint256 id = 1; id <= OPERATORS; ++id) {
            if (books[id].roles != 0 && !books[id].isGone) withdrawAs(accountOf(id), id);
            assertTrue(books[id].roles == 0 || books[id].isGone, "somebody is left");
        }
        takeEverythingBack();
        claimEverything();
        payEverybody();
        requireNothingIsLeft();
    }

    function pauseEverything() private {
        address[4] memory all = [address(registry), address(center), address(escrow), address(court)];
        for (uint256 i = 0; i < all.length; ++i) {
            attempt(owner, all[i], abi.encodeCall(Governed.pause, (true)), 0);
        }
    }

    function askEverythingBack() private {
        for (uint256 i = 0; i < REQUESTERS; ++i) {
            for (uint256 id = 1; id <= OPERATORS; ++id) {
                askBack(requesterAt(i), accountOf(id), type(uint256).max);
            }
        }
    }

    function takeEverythingBack() private {
        for (uint256 i = 0; i < REQUESTERS; ++i) {
            for (uint256 id = 1; id <= OPERATORS; ++id) {
                takeBack(requesterAt(i), accountOf(id));
            }
        }
    }

    function decideEverything() private {
        for (uint256 i = 0; i < cases.length; ++i) {
            if (!isWaiting(cases[i])) continue;
            if (cases[i].vetoDueAt != 0) carryOutVeto(cases[i]);
            else executeCase(cases[i]);
            assertTrue(!isWaiting(cases[i]), "a slash waits for ever");
        }
    }

    /// @dev Every voter of every pool; what rounding leaves is less than a wei for each.
    function claimEverything() private {
        for (uint256 i = 0; i < pools.length; ++i) {
            uint256 voters = 0;
            for (uint256 seat = 0; seat < OPERATORS; ++seat) {
                (address seated,) = shareOf(i, seat);
                if (seated == address(0)) continue;
                ++voters;
                claimShare(seated, i, seat);
            }
            assertTrue(pools[i].amount - pools[i].claimed < voters, "dust of a pool");
        }
        for (uint256 id = 1; id <= OPERATORS; ++id) {
            claimEarned(accountOf(id));
        }
        claimEarned(accountOf(AGGREGATOR_ID));
    }

    function payEverybody() private {
        payOwed(vault);
        for (uint256 i = 0; i < cases.length; ++i) {
            payOwed(cases[i].harmed);
        }
    }

    function requireNothingIsLeft() private view {
        assertEq(address(registry).balance, 0, "stake is left");
        assertEq(registry.totalStake(), 0, "total stake");
        assertEq(registry.operatorCount(), 0, "somebody is listed");
        assertEq(court.totalOwed(), 0, "something is owed");
        assertEq(address(court).balance, forcedIn, "nobody's coin is left");
        uint256 dust = attesterFees - attesterClaims;
        assertEq(escrow.held(), dust, "dust");
        assertEq(address(escrow).balance, dust, "dust is all that is left");
        assertEq(cameIn, wentOut + dust, "everything else was paid out");
    }
}
