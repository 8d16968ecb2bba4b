// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

import {Governed} from "../src/Governed.sol";
import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {Cids} from "../src/libraries/Cids.sol";
import {Currency} from "../src/libraries/Currency.sol";
import {CourtNetwork} from "./CourtNetwork.sol";
import {Network} from "./Network.sol";

/// @notice A token that can take a fee of each transfer, and tell somebody about it.
contract CourtToken is ERC20("Court", "CT") {
    uint256 public feeWad;
    address public listener;

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function set(uint256 feeWad_, address listener_) external {
        (feeWad, listener) = (feeWad_, listener_);
    }

    function _update(address from, address to, uint256 amount) internal override {
        uint256 fee = from == address(0) ? 0 : amount * feeWad / 1e18;
        super._update(from, to, amount - fee);
        if (fee != 0) super._update(from, address(0), fee);
        if (listener != address(0)) Listener(payable(listener)).hear();
    }
}

/// @notice Comes back to the court whenever it is paid or told, and keeps what it was answered.
contract Listener {
    ISlashingCourt private immutable _court;
    bytes32 private immutable _slashId;
    bytes public executing;
    bytes public paying;

    constructor(ISlashingCourt court, bytes32 slashId) {
        (_court, _slashId) = (court, slashId);
    }

    function hear() public {
        executing = answerTo(abi.encodeCall(ISlashingCourt.executeSlash, (_slashId)));
        paying = answerTo(abi.encodeCall(ISlashingCourt.pay, (address(this))));
    }

    function answerTo(bytes memory message) private returns (bytes memory) {
        (bool done, bytes memory answer) = address(_court).call(message);
        return bytes.concat(done ? bytes("done") : bytes("refused"), answer);
    }

    receive() external payable {
        hear();
    }
}

/// @notice Who gets the wei of a slash. Branches: tree/nameHarmed.tree, tree/pay.tree.
contract CompensationTest is CourtNetwork {
    uint256 private constant FEE = 0.25 ether;

    // --- nameHarmed --------------------------------------------------------------------------------------------------

    function test_nameHarmed_GivesTheRequesterTheFeeAndTheVaultTheRest() public {
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        bytes32 taskId = center.taskRequestHash(made);
        bytes32 slashId = reject(taskId);
        vm.expectEmit(address(court));
        emit ISlashingCourt.HarmedNamed(slashId, requester, FEE);
        vm.prank(address(0xdead)); // anyone
        court.nameHarmed(slashId, made);
        assertEq(court.slashOf(slashId).requester, requester, "requester");
        assertEq(court.slashOf(slashId).value, FEE, "value");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashExecuted(slashId, taskId, performer, 1 ether, requester, FEE);
        court.executeSlash(slashId);
        assertEq(court.owedTo(requester), FEE, "the requester's");
        assertEq(court.owedTo(vault), 1 ether - FEE, "the vault's");
        assertEq(court.totalOwed(), 1 ether, "all");
    }

    function test_nameHarmed_IsForTheTasksOwnRequestOnce() public {
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        bytes32 taskId = center.taskRequestHash(made);
        bytes32 slashId = reject(taskId);
        bytes memory mismatch = refusal(ISlashingCourt.RequestMismatch.selector, taskId);
        made.requester = address(this);
        vm.expectRevert(mismatch);
        court.nameHarmed(slashId, made);
        (made.requester, made.fee) = (requester, FEE + 1);
        vm.expectRevert(mismatch);
        court.nameHarmed(slashId, made);
        made.fee = FEE;
        court.nameHarmed(slashId, made);
        vm.expectRevert(refusal(ISlashingCourt.HarmedAlreadyNamed.selector, slashId));
        court.nameHarmed(slashId, made);
    }

    function test_nameHarmed_NotAgainAfterAMissedDeadline() public {
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        bytes32 slashId = missDeadline(made);
        vm.expectRevert(refusal(ISlashingCourt.HarmedAlreadyNamed.selector, slashId));
        court.nameHarmed(slashId, made);
    }

    function test_nameHarmed_ComesBeforeTheSlashIsExecuted() public {
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        vm.expectRevert(notWaiting("unknown", ISlashingCourt.State.NONE));
        court.nameHarmed("unknown", made);
        bytes32 slashId = reject(center.taskRequestHash(made));
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        court.executeSlash(slashId);
        vm.expectRevert(notWaiting(slashId, ISlashingCourt.State.EXECUTED));
        court.nameHarmed(slashId, made);
    }

    function test_nameHarmed_RevertsForARequestOfNobody() public {
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        made.requester = address(0);
        bytes32 taskId = center.taskRequestHash(made);
        bytes32 slashId = reject(taskId);
        vm.expectRevert(refusal(ISlashingCourt.RequestMismatch.selector, taskId));
        court.nameHarmed(slashId, made);
    }

    /// The fee is the requester's own word; what a task costs is the definition's.
    function test_nameHarmed_AFeeBeyondAllMeasureIsWorthTheDefinitionsFees() public {
        IAttestationCenter.TaskRequest memory made = request(1, type(uint256).max);
        bytes32 slashId = reject(center.taskRequestHash(made));
        vm.expectEmit(address(court));
        emit ISlashingCourt.HarmedNamed(slashId, requester, PRICE);
        court.nameHarmed(slashId, made);
        assertEq(court.slashOf(slashId).value, PRICE, "value");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        court.executeSlash(slashId);
        assertEq(court.owedTo(requester), 1 ether, "all of a slash that is less");
        assertEq(court.owedTo(vault), 0, "nothing");
    }

    function test_nameHarmed_TheFeeCountsUpToTheDefinitionsFees() public {
        assertEq(valueOf(request(1, PRICE - 1)), PRICE - 1, "a smaller fee");
        assertEq(valueOf(request(2, PRICE)), PRICE, "the same");
        assertEq(valueOf(request(3, PRICE + 1)), PRICE, "a larger fee");
        assertEq(valueOf(request(4, 0)), 0, "no fee");
    }

    /// The request names its definition, whichever the offence was committed under.
    function test_nameHarmed_TheRequestsDefinitionCounts() public {
        uint16 cheap = addDefinition(Network.terms());
        IAttestationCenter.TaskRequest memory made = request(1, PRICE);
        made.taskDefinitionId = cheap;
        assertEq(valueOf(made), 9 gwei, "all three of its fees");
        made.taskDefinitionId = cheap + 1;
        bytes32 slashId = reject(center.taskRequestHash(made));
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.UnknownTaskDefinition.selector, cheap + 1));
        court.nameHarmed(slashId, made);
    }

    function test_nameHarmed_TheFeesOfThatMomentCount() public {
        IAttestationCenter.TaskRequest memory made = request(1, PRICE);
        bytes32 slashId = reject(center.taskRequestHash(made));
        vm.prank(owner);
        Governed(address(center)).announceChange("fees", 0, uint256(7 gwei) << 160 | uint256(2 gwei) << 80 | 1 gwei);
        vm.warp(block.timestamp + CHANGE_DELAY);
        Governed(address(center)).makeChange("fees", 0);
        court.nameHarmed(slashId, made);
        assertEq(court.slashOf(slashId).value, 10 gwei, "value");
    }

    function test_nameHarmed_KnowsTheLargestFeesThatADefinitionCanHave() public {
        IAttestationCenter.TaskTerms memory dearest = terms();
        uint80 most = type(uint80).max;
        dearest.fees = IAttestationCenter.Fees({performer: most, attesters: most, aggregator: most});
        IAttestationCenter.TaskRequest memory made = request(1, type(uint256).max);
        made.taskDefinitionId = addDefinition(dearest);
        assertEq(valueOf(made), 3 * uint256(most), "value");
    }

    function test_executeSlash_AllSlashesOfATaskTogetherGiveUpToItsFee() public {
        IAttestationCenter.TaskRequest memory made = request(1, 1.2 ether);
        bytes32 missed = missDeadline(made);
        bytes32 rejected = reject(center.taskRequestHash(made));
        court.nameHarmed(rejected, made);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        court.executeSlash(missed);
        assertEq(court.owedTo(requester), 1 ether, "a tenth of ten");
        assertEq(court.owedTo(vault), 0, "nothing yet");
        court.executeSlash(rejected);
        assertEq(court.owedTo(requester), 1.2 ether, "the fee is reached");
        assertEq(court.owedTo(vault), 0.7 ether, "the rest of a tenth of nine");

        IAttestationCenter.TaskRequest memory other = request(2, 1 ether);
        bytes32 slashId = reject(center.taskRequestHash(other));
        court.nameHarmed(slashId, other);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        court.executeSlash(slashId);
        assertEq(court.owedTo(requester), 1.2 ether + 0.81 ether, "another task, another fee");
    }

    function test_executeSlash_ATaskWhoseFeeIsPaidBackGivesNoMore() public {
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        bytes32 missed = missDeadline(made);
        bytes32 rejected = reject(center.taskRequestHash(made));
        court.nameHarmed(rejected, made);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        court.executeSlash(missed);
        court.executeSlash(rejected);
        assertEq(court.owedTo(requester), FEE, "once");
        assertEq(court.owedTo(vault), 1.9 ether - FEE, "the rest");
    }

    function test_executeSlash_AllSlashesOfATaskTogetherGiveUpToTheDefinitionsFees() public {
        IAttestationCenter.TaskRequest memory made = request(1, PERFORMER_STAKE);
        bytes32 missed = missDeadline(made);
        bytes32 rejected = reject(center.taskRequestHash(made));
        court.nameHarmed(rejected, made);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        court.executeSlash(missed);
        court.executeSlash(rejected);
        assertEq(court.owedTo(requester), PRICE, "once");
        assertEq(court.owedTo(vault), 1.9 ether - PRICE, "the rest");
    }

    /// An operator that is about to be slashed invents a request, shows its own offence on it, and is its own harmed
    /// requester: it loses all but the definition's fees.
    function test_executeSlash_AnInventedRequestBuysNoStakeBack() public {
        IAttestationCenter.TaskRequest memory made = request(1, PERFORMER_STAKE);
        made.requester = performer;
        bytes32 others = reject("somebody else's");
        bytes32 own = tamper(made);
        court.nameHarmed(own, made);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(own), PERFORMER_STAKE, "everything is slashed");
        assertEq(court.executeSlash(others), 0, "nothing is left");
        assertEq(court.pay(performer), PRICE, "what a task costs");
        assertEq(court.pay(vault), PERFORMER_STAKE - PRICE, "the rest is lost");
        leaveAndWait();
        assertEq(performer.balance, PRICE, "all that it has got of its stake");
    }

    /// With fees in proportion to a stake, as they are, that is nothing.
    function test_executeSlash_ACheapDefinitionGivesTheInventorNextToNothing() public {
        uint16 cheap = addDefinition(Network.terms());
        IAttestationCenter.TaskRequest memory made = request(1, type(uint256).max);
        (made.requester, made.taskDefinitionId) = (performer, cheap);
        bytes32 own = tamper(made);
        court.nameHarmed(own, made);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        court.executeSlash(own);
        assertEq(court.owedTo(performer), 9 gwei, "the fees");
        assertEq(court.owedTo(vault), PERFORMER_STAKE - 9 gwei, "the rest is lost");
    }

    /// Nor do many: each of its own slashes costs a tenth of what is left, and gives a task's fees back.
    function test_executeSlash_ManyInventedRequestsBuyNoStakeBackEither() public {
        uint16 cheap = addDefinition(Network.terms());
        bytes32[] memory own = new bytes32[](8);
        for (uint256 i = 0; i < own.length; ++i) {
            IAttestationCenter.TaskRequest memory made = request(i, type(uint256).max);
            (made.requester, made.taskDefinitionId) = (performer, cheap);
            made.deadline = uint64(block.timestamp - 1 hours - 1);
            own[i] = court.reportMissedDeadline(made, promiseFor(made));
        }
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        uint256 stake = PERFORMER_STAKE;
        for (uint256 i = 0; i < own.length; ++i) {
            stake -= court.executeSlash(own[i]);
        }
        assertEq(stakeOf(performer), stake, "nine tenths, eight times");
        assertEq(court.owedTo(performer), own.length * 9 gwei, "the fees");
        assertEq(court.owedTo(vault), PERFORMER_STAKE - stake - own.length * 9 gwei, "the rest is lost");
    }

    function testFuzz_executeSlash_NoWeiIsLostOrMade(uint256 fee, uint96 added) public {
        uint256 more = bound(added, 1, 1e24);
        vm.deal(address(this), more);
        registry.addStake{value: more}(performer, more);
        IAttestationCenter.TaskRequest memory made = request(1, fee);
        bytes32 slashId = reject(center.taskRequestHash(made));
        court.nameHarmed(slashId, made);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        uint256 amount = court.executeSlash(slashId);
        assertEq(amount, (PERFORMER_STAKE + more) / 10, "amount");
        uint256 value = fee < PRICE ? fee : PRICE;
        assertEq(court.owedTo(requester), value < amount ? value : amount, "the requester's");
        assertEq(court.owedTo(requester) + court.owedTo(vault), amount, "shared whole");
        assertEq(court.totalOwed(), amount, "owed");
        assertEq(address(court).balance, amount, "here");
    }

    // --- pay ---------------------------------------------------------------------------------------------------------

    function test_pay_PaysEachOnce() public {
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        bytes32 slashId = missDeadline(made);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        court.executeSlash(slashId);
        vm.expectEmit(address(court));
        emit ISlashingCourt.Paid(requester, FEE);
        vm.prank(address(0xdead)); // anyone
        assertEq(court.pay(requester), FEE, "amount");
        assertEq(requester.balance, FEE, "the requester has it");
        assertEq(court.totalOwed(), 1 ether - FEE, "the vault's is still owed");
        assertEq(court.owedTo(requester), 0, "nothing more");
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.NothingOwed.selector, requester));
        court.pay(requester);
        assertEq(court.pay(vault), 1 ether - FEE, "amount");
        assertEq(vault.balance, 1 ether - FEE, "the vault has it");
        assertEq(court.totalOwed(), 0, "nothing is owed");
        assertEq(address(court).balance, 0, "nothing is left");
    }

    function test_pay_WhoCannotBePaidHoldsUpNobodyElse() public {
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        made.requester = address(tables); // takes no coin
        bytes32 slashId = missDeadline(made);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        court.executeSlash(slashId);
        vm.expectRevert(abi.encodeWithSelector(Currency.TransferFailed.selector, made.requester, FEE));
        court.pay(made.requester);
        assertEq(court.owedTo(made.requester), FEE, "still owed");
        assertEq(court.pay(vault), 1 ether - FEE, "the vault is paid");
    }

    function test_pay_OnceForWhoComesBack() public {
        bytes32 other = reject("other");
        Listener listener = new Listener(court, other);
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        made.requester = address(listener);
        bytes32 slashId = missDeadline(made);
        vm.warp(court.slashOf(slashId).executableAt);
        court.executeSlash(slashId);
        court.pay(address(listener));
        assertEq(address(listener).balance, FEE, "its own");
        assertEq(
            listener.paying(),
            bytes.concat("refused", abi.encodeWithSelector(ISlashingCourt.NothingOwed.selector, address(listener))),
            "once"
        );
        assertEq(
            listener.executing(), bytes.concat("done", abi.encode(0.9 ether)), "another slash is nobody's business"
        );
        assertEq(court.totalOwed(), 1.9 ether - FEE, "owed");
        assertEq(address(court).balance, 1.9 ether - FEE, "here");
    }

    // --- tokens ------------------------------------------------------------------------------------------------------

    function test_executeSlash_AndPayInAToken() public {
        CourtToken token = deployForToken();
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        bytes32 slashId = missDeadline(made);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(slashId), 1 ether, "a tenth");
        assertEq(token.balanceOf(address(court)), 1 ether, "here");
        court.pay(requester);
        court.pay(vault);
        assertEq(token.balanceOf(requester), FEE, "the requester has it");
        assertEq(token.balanceOf(vault), 1 ether - FEE, "the vault has it");
        assertEq(court.totalOwed(), 0, "nothing is owed");
    }

    function test_executeSlash_OwesWhatArrived() public {
        CourtToken token = deployForToken();
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        bytes32 slashId = missDeadline(made);
        bytes32 second = reject("second");
        token.set(0.5e18, address(0));
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(slashId), 0.5 ether, "half was lost on the way");
        assertEq(court.owedTo(requester), FEE, "the requester first");
        assertEq(court.owedTo(vault), 0.5 ether - FEE, "then the vault");
        token.set(1e18, address(0));
        assertEq(court.executeSlash(second), 0, "all was lost on the way");
        assertEq(court.totalOwed(), token.balanceOf(address(court)), "no more than what is here");
    }

    function test_executeSlash_OwesNothingNewWhileTokensAreMissing() public {
        CourtToken token = deployForToken();
        bytes32 first = reject("first");
        bytes32 second = reject("second");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        court.executeSlash(first);
        vm.prank(address(court)); // as a token does that changes balances by itself
        assertTrue(token.transfer(address(1), 1 ether), "gone");
        token.set(1e18, address(0));
        assertEq(court.executeSlash(second), 0, "not a wei more is owed than was");
        assertEq(court.totalOwed(), 1 ether, "owed");
    }

    function test_executeSlash_DoesNotPassOnWhatWasGiven() public {
        CourtToken token = deployForToken();
        token.mint(address(court), 5 ether);
        bytes32 slashId = reject("task");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(slashId), 1 ether, "what was slashed");
        assertEq(court.totalOwed(), 1 ether, "owed");
    }

    function test_executeSlash_OnceForATokenThatComesBack() public {
        CourtToken token = deployForToken();
        IAttestationCenter.TaskRequest memory made = request(1, FEE);
        bytes32 slashId = missDeadline(made);
        Listener listener = new Listener(court, slashId);
        token.set(0, address(listener));
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(slashId), 1 ether, "a tenth");
        assertEq(
            listener.executing(), bytes.concat("refused", notWaiting(slashId, ISlashingCourt.State.EXECUTED)), "once"
        );
        assertEq(court.totalOwed(), 1 ether, "owed");
        assertEq(token.balanceOf(address(court)), 1 ether, "here");
    }

    // --- inside ------------------------------------------------------------------------------------------------------

    /// @dev What the requester of a rejected task can get.
    function valueOf(IAttestationCenter.TaskRequest memory made) private returns (uint256) {
        bytes32 slashId = reject(center.taskRequestHash(made));
        court.nameHarmed(slashId, made);
        return court.slashOf(slashId).value;
    }

    /// @dev The performer shows its own fraud on the request.
    function tamper(IAttestationCenter.TaskRequest memory made) private returns (bytes32 slashId) {
        bytes memory proof =
            bytes.concat('{"modelHash":"0x', "0000000000000000000000000000000000000000000000000000000000000000", '"}');
        IAttestationCenter.TaskInfo memory info = makeInfo(center.taskRequestHash(made), PERFORMER_ID, 1);
        info.proofOfTask = string(Cids.ofRawBlock(sha256(proof)));
        return court.reportTampering(info, ecdsaSignature(PERFORMER_ID, center.taskInfoHash(info)), proof, 1);
    }

    function leaveAndWait() private {
        vm.startPrank(performer);
        registry.leave(performer);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        registry.withdraw(performer);
        vm.stopPrank();
    }

    /// @dev Another network, whose stake is a token.
    function deployForToken() private returns (CourtToken token) {
        token = new CourtToken();
        deployNetwork(address(token));
        addDefinition(terms());
        joinByToken(token, PERFORMER_ID, PERFORMER, PERFORMER_STAKE);
        for (uint256 id = 1; id <= 4; ++id) {
            joinByToken(token, id, ATTESTER, MINIMUM_STAKE);
        }
        roll();
    }

    function joinByToken(CourtToken token, uint256 id, uint8 roles, uint256 stake) private {
        address account = accountOf(id);
        IOperatorRegistry.Registration memory made = registration(id, roles, stake);
        token.mint(account, stake);
        vm.startPrank(account);
        token.approve(address(registry), stake);
        registry.register(made);
        vm.stopPrank();
    }
}
