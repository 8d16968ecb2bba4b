// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Network} from "./Network.sol";

/// @notice What a registry and a center refuse to be deployed or joined with.
contract DeploymentTest is Network {
    address private immutable account = accountOf(1);

    // --- deploying ---------------------------------------------------------------------------------------------------

    function deployExternally(uint256 minimumStake, uint64 unbonding, uint64 epoch, address vault_) external {
        deployRegistry(minimumStake, unbonding, epoch, vault_);
    }

    function _expectSetting(string memory name, uint256 value) private {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InvalidSetting.selector, name, value));
    }

    function test_constructor_BoundsItsSettings() public {
        _expectSetting("minimumStake", 1 gwei - 1);
        this.deployExternally(1 gwei - 1, 1, 1, vault);
        _expectSetting("minimumStake", type(uint256).max);
        this.deployExternally(type(uint256).max, 1, 1, vault);
        _expectSetting("unbondingSeconds", 0);
        this.deployExternally(1 gwei, 0, 1, vault);
        _expectSetting("unbondingSeconds", 365 days + 1);
        this.deployExternally(1 gwei, 365 days + 1, 1, vault);
        _expectSetting("epochSeconds", 0);
        this.deployExternally(1 gwei, 1, 0, vault);
        _expectSetting("epochSeconds", 30 days + 1);
        this.deployExternally(1 gwei, 1, 30 days + 1, vault);
        _expectSetting("vault", 0);
        this.deployExternally(1 gwei, 1, 1, address(0));
        this.deployExternally(1 gwei, 365 days, 30 days, vault);
    }

    function test_constructor_RefusesAChainWithoutEip2537() public {
        // Where there is no precompile a call succeeds and answers nothing.
        for (uint160 precompile = 0x0b; precompile <= 0x10; ++precompile) {
            if (precompile == 0x0c || precompile == 0x0e) continue; // multiplication is not used
            vm.mockCall(address(precompile), "", "");
            vm.expectPartialRevert(BLS12381.PrecompileMissing.selector);
            this.deployExternally(1 gwei, 1, 1, vault);
            vm.clearMockedCalls();
        }
        this.deployExternally(1 gwei, 1, 1, vault);
    }

    function test_constructor_RefusesAPairingThatIsAlwaysTrueOrAlwaysFalse() public {
        for (uint256 answer = 0; answer < 2; ++answer) {
            vm.mockCall(address(0x0f), "", abi.encode(answer));
            vm.expectRevert(abi.encodeWithSelector(BLS12381.PrecompileMissing.selector, address(0x0f)));
            this.deployExternally(1 gwei, 1, 1, vault);
            vm.clearMockedCalls();
        }
    }

    function test_verifyQuorum_RevertsWhereThePairingAnswersNothing() public {
        join(1, ATTESTER, MINIMUM_STAKE);
        roll();
        (bytes memory signature, bytes memory missing) = vote("digest", 1, true, 1);
        vm.mockCall(address(0x0f), "", "");
        vm.expectRevert(abi.encodeWithSelector(BLS12381.PrecompileMissing.selector, address(0x0f)));
        registry.verifyQuorum("digest", 1, true, signature, missing);
    }

    function test_setCenter_IsForTheDeployerAndOnce() public {
        IOperatorRegistry fresh = deployRegistry(MINIMUM_STAKE, UNBONDING_SECONDS, EPOCH_SECONDS, vault);
        IAttestationCenter mine = deployCenter(fresh, SLASH_WAD, DISPUTE_WINDOW);
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.OnlyDeployer.selector, account));
        fresh.setCenter(address(mine));
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InvalidCenter.selector, address(center)));
        fresh.setCenter(address(center));
        vm.expectRevert();
        fresh.setCenter(account);

        vm.expectEmit(address(fresh));
        emit IOperatorRegistry.CenterSet(address(mine));
        fresh.setCenter(address(mine));
        assertEq(fresh.center(), address(mine), "center");
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.CenterAlreadySet.selector, address(mine)));
        fresh.setCenter(address(mine));
    }

    function test_setCenter_RefusesADisputeLongerThanTheExit() public {
        IOperatorRegistry fresh = deployRegistry(MINIMUM_STAKE, UNBONDING_SECONDS, EPOCH_SECONDS, vault);
        LongDispute slow = new LongDispute(fresh, UNBONDING_SECONDS + 1);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InvalidCenter.selector, address(slow)));
        fresh.setCenter(address(slow));
    }
}

/// As much of a center as `setCenter` looks at.
contract LongDispute {
    IOperatorRegistry public immutable registry;
    uint64 public immutable disputeWindow;

    constructor(IOperatorRegistry registry_, uint64 disputeWindow_) {
        registry = registry_;
        disputeWindow = disputeWindow_;
    }
}
